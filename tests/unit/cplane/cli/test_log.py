"""`cplane log` on files: what is proven, exported, made anew, archived and dropped, and what each exit code means."""

import json
import stat
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner

from cplane.cli.main import cli
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import draft
from cplane.eventlog.verify import verify_file
from cplane.events.envelope import NODE
from tests.support import churn
from tests.support.log import fact, proposal, sql
from tests.support.offline import Ran

pytestmark = pytest.mark.slow


def log(*arguments: object, stdin: bytes = b"") -> Ran:
    """`cplane log …`."""
    done = CliRunner().invoke(cli, ["log", *map(str, arguments)], input=stdin, prog_name="cplane")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Ran(done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def story():
    return churn.recorded(Random(11), 60)


@pytest.fixture
def path(tmp_path: Path, story) -> Path:
    return churn.stored(tmp_path / "log.db", story[0])


def kept(path: Path, tmp_path: Path, at: object, *more: object) -> Path:
    """A checkpoint in a file."""
    file = tmp_path / f"{at}.checkpoint"
    file.write_text(log("checkpoint", "--log", path, "--at", at, *more).out)
    return file


def rewrite(path: Path, story, after: int) -> None:
    """The log is another one behind that position, and sound in itself."""
    rows = story[0][:after]
    sql(path, f"DELETE FROM events WHERE position > {after}")
    chain = Chain(after, rows[-1][-1], {})
    for row in rows:
        chain.versions[row[1]] = row[2]
    made = []
    for number in range(len(story[0]) - after):
        wanted = proposal(chain.versions[NODE], fact(number))
        made += chain.extend(draft(wanted), wanted.expected, 1)[0]
    churn.stored(path, made)


def test_a_checkpoint_is_still_in_the_log_when_it_has_grown(path: Path, tmp_path: Path, story) -> None:
    file = kept(path, tmp_path, 50)
    assert file.read_text().splitlines()[3:5] == ["position 50", f"digest {story[1][49].digest.hex()}"]
    done = log("verify", "--log", path, "--checkpoint", file)
    assert (done.code, done.out.splitlines()[-1].split()) == (0, ["checkpoints:", "1", "in", "this", "log"])


def test_a_past_that_was_rewritten_is_found_and_between_which_checkpoints(path: Path, tmp_path: Path, story) -> None:
    files = [kept(path, tmp_path, at) for at in (20, 40, 60, len(story[0]))]
    rewrite(path, story, 45)
    assert not verify_file(str(path)).fault
    done = log("verify", "--log", path, *(part for file in files for part in ("--checkpoint", file)))
    assert done.code == 1
    assert "NOT IN THIS LOG" in done.out
    assert done.err.startswith("cplane: position 60: the log has the digest ")
    assert done.err.endswith("an event from position 41 to 60 is not the one that was there\n")


def test_a_log_that_was_cut_at_its_end_is_found(path: Path, tmp_path: Path, story) -> None:
    file = kept(path, tmp_path, "head")
    sql(path, f"DELETE FROM events WHERE position = {len(story[0])}")
    done = log("verify", "--log", path, "--checkpoint", file)
    assert done.code == 1
    assert "events are missing" in done.err


def test_a_checkpoint_is_signed_by_a_key_that_only_its_owner_can_read(path: Path, tmp_path: Path) -> None:
    key = tmp_path / "audit.key"
    file = kept(path, tmp_path, "head", "--key", key, "--generate-key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    public = Path(f"{key}.pub")
    assert "PUBLIC KEY" in public.read_text()
    assert log("verify", "--log", path, "--checkpoint", file, "--public-key", public).code == 0
    shown = json.loads(log("checkpoint", "--log", path, "--key", key, "-o", "json").out)
    assert file.read_text().splitlines()[-1] == f"signature ed25519 {shown['public_key']} {shown['signature']}"


def test_a_key_is_never_written_over(path: Path, tmp_path: Path) -> None:
    key = tmp_path / "audit.key"
    key.write_text("mine")
    done = log("checkpoint", "--log", path, "--key", key, "--generate-key")
    assert (done.code, key.read_text()) == (1, "mine")
    assert "nothing is written over it" in done.err


@pytest.mark.parametrize("line", range(7))
def test_a_signed_checkpoint_with_any_line_changed_is_refused(path: Path, tmp_path: Path, line: int) -> None:
    key = tmp_path / "audit.key"
    file = kept(path, tmp_path, "head", "--key", key, "--generate-key")
    lines = file.read_text().splitlines(keepends=True)
    changed = lines[line].rstrip("\n")
    lines[line] = changed[:-1] + ("1" if changed[-1] != "1" else "2") + "\n"
    file.write_text("".join(lines))
    done = log("verify", "--log", path, "--checkpoint", file, "--public-key", f"{key}.pub")
    assert done.code == 1
    assert str(file) in done.err


def test_a_checkpoint_by_another_key_or_by_none_is_refused(path: Path, tmp_path: Path) -> None:
    log("checkpoint", "--log", path, "--key", tmp_path / "a", "--generate-key")
    theirs = kept(path, tmp_path, 30, "--key", tmp_path / "b", "--generate-key")
    unsigned = kept(path, tmp_path, 31)
    for file, reason in ((theirs, "signed by another key"), (unsigned, "not signed")):
        done = log("verify", "--log", path, "--checkpoint", file, "--public-key", f"{tmp_path / 'a'}.pub")
        assert done.code == 1
        assert reason in done.err


def test_what_is_no_key_is_said(path: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hello")
    done = log("checkpoint", "--log", path, "--key", tmp_path / "key")
    assert (done.code, "no private key in PEM" in done.err) == (1, True)


@pytest.mark.parametrize("packed", [(), ("--zstd",)])
def test_an_export_is_a_log_again(path: Path, tmp_path: Path, packed) -> None:
    done = CliRunner().invoke(cli, ["log", "export", "--log", str(path), *packed])
    assert done.exit_code == 0
    file = tmp_path / "export"
    file.write_bytes(done.stdout_bytes)
    new = tmp_path / "new.db"
    assert log("import", file, "--log", new).code == 0
    assert sql(new, "SELECT * FROM events") == sql(path, "SELECT * FROM events")
    assert log("import", "-", "--log", tmp_path / "piped.db", stdin=done.stdout_bytes).code == 0
    again = log("import", file, "--log", new)
    assert (again.code, "is there already" in again.err) == (1, True)


def test_an_import_of_something_else_leaves_nothing(path: Path, tmp_path: Path) -> None:
    done = log("import", path, "--log", tmp_path / "new.db")
    assert (done.code, (tmp_path / "new.db").exists()) == (1, False)
    assert done.err.startswith(f"cplane: {path}: line 1: ")


def test_a_log_is_archived_and_compacted_and_says_where_it_begins(path: Path, tmp_path: Path, story) -> None:
    old, new = kept(path, tmp_path, 10), kept(path, tmp_path, 100)
    done = log("archive", "--log", path, "--keep", 20, "-o", "json")
    assert json.loads(done.out) == {"archived": len(story[0]) - 20, "segments": 1, "last_archived": len(story[0]) - 20}
    assert log("verify", "--log", path, "--checkpoint", old, "--checkpoint", new).code == 0
    # One segment, which is dropped as a whole or not at all.
    assert json.loads(log("compact", "--log", path, "--keep", 50, "-o", "json").out) == {"dropped": 0, "first": 1}
    done = log("compact", "--log", path, "--keep", "head", "-o", "json")
    start = len(story[0]) - 20
    digest = story[1][start - 1].digest.hex()
    assert json.loads(done.out) == {"dropped": start, "first": start + 1, "digest_before": digest}
    shown = log("verify", "--log", path)
    assert f"from position {start + 1} on; the past before is gone, its digest was {digest}" in shown.out
    lost = log("verify", "--log", path, "--checkpoint", old)
    assert (lost.code, "was dropped, so nothing can be proven" in lost.err) == (1, True)
    ran = CliRunner().invoke(cli, ["replay", "--log", str(path), "--to", "10"])
    assert ran.exit_code == 1
    assert f"position 10 was dropped from the log: the log goes from position {start + 1}" in ran.stderr


def test_a_checkpoint_of_where_a_compacted_log_begins_is_still_proven(path: Path, tmp_path: Path, story) -> None:
    start = len(story[0]) - 20
    file = kept(path, tmp_path, start)
    log("archive", "--log", path, "--keep", 20)
    log("compact", "--log", path, "--keep", "head")
    assert log("verify", "--log", path, "--checkpoint", file).code == 0


def test_a_horizon_that_is_still_to_come_is_refused(path: Path) -> None:
    done = log("compact", "--log", path, "--keep", "2999-01-01T00:00:00Z")
    assert (done.code, "still to come" in done.err) == (1, True)


@pytest.mark.parametrize("command", ["archive", "checkpoint", "compact", "export", "import", "verify"])
def test_help_has_examples_and_exit_codes(command: str) -> None:
    shown = log(command, "--help").out
    assert "Examples:" in shown
    assert "Exit codes:" in shown
    assert "\n    0  " in shown


# Questions to a log that is not sound


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [("ipam.pool_added", "ipv4", "ipv5"), ("policy.upserted", '"kind":"C', '"kind":"D')],
)
def test_a_question_that_a_changed_event_misleads_says_that_the_log_is_not_sound(path, kind, old, new):
    ((position, before, after),) = sql(
        path,
        f"SELECT min(position), data, replace(data, '{old}', '{new}') FROM events WHERE type = '{kind}'",
    )
    assert before != after
    sql(path, f"UPDATE events SET data = replace(data, '{old}', '{new}') WHERE position = {position}")
    done = CliRunner().invoke(cli, ["replay", "--log", str(path), "--to", "head"], prog_name="cplane")
    assert (done.exit_code, done.stdout) == (1, ""), done.exception
    assert f"position {position}: its digest does not fit" in done.stderr
