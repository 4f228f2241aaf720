"""A log that is not what was written: no agent starts on it, and everybody is told where it begins to differ."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from tests.support.agent import Agent, running
from tests.support.site import PREFIX, policy

pytestmark = pytest.mark.slow

AT: Final = 5
Tamper = Callable[[sqlite3.Connection], object]


def data_flipped(log: sqlite3.Connection) -> None:
    """One bit of one letter."""
    (data,) = log.execute("SELECT data FROM events WHERE position = ?", (AT,)).fetchone()
    log.execute("UPDATE events SET data = ? WHERE position = ?", (data.replace("demo", "eemo", 1), AT))


def swapped(log: sqlite3.Connection) -> None:
    """The event AT and the one behind it."""
    for old, new in ((AT, 0), (AT + 1, AT), (0, AT + 1)):
        log.execute("UPDATE events SET position = ? WHERE position = ?", (new, old))


def sql(statement: str) -> Tamper:
    """A statement about the event AT."""
    return lambda log: log.execute(statement, (AT,))


TAMPERED: Final[dict[str, tuple[Tamper, str]]] = {
    "a letter of the data": (data_flipped, "its digest does not fit"),
    "the actor": (sql("UPDATE events SET actor = 'uid:0(root2)' WHERE position = ?"), "its digest does not fit"),
    "the time": (
        sql("UPDATE events SET recorded_at_ns = recorded_at_ns + 1 WHERE position = ?"),
        "its digest does not fit",
    ),
    "an event that is gone": (sql("DELETE FROM events WHERE position = ?"), "the event is missing"),
    "events that changed places": (swapped, "its digest does not fit"),
    "an event of a kind that is not known": (
        sql("UPDATE events SET type = 'policy.forgotten' WHERE position = ?"),
        "",
    ),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of an agent that was told of six policies and stopped."""
    folder = tmp_path_factory.mktemp("written")
    with running(folder, f"{PREFIX}{os.getpid():x}-log", datapath="memory") as agent:
        documents = [policy(f"p{number}", "web", "ingress: [{}]") for number in range(6)]
        agent.cplane("policy", "apply", "-f", "-", given="\n---\n".join(documents))
        assert agent.stop() == 0
    return agent.state


@pytest.fixture
def told(written: Path, tmp_path: Path) -> Agent:
    """An agent with that state, not started."""
    shutil.copytree(written, tmp_path / "state")
    return Agent(tmp_path, f"{PREFIX}{os.getpid():x}-log", datapath="memory")


@pytest.mark.parametrize("what", TAMPERED)
def test_a_changed_log_is_refused_at_the_position_where_it_was_changed(told: Agent, what: str) -> None:
    tamper, reason = TAMPERED[what]
    file = told.state / "log.db"
    with closing(sqlite3.connect(file)) as log, log:
        tamper(log)
    status, words = told.fails_to_start()
    assert status == 1
    assert f"position {AT}: " in words
    assert reason in words
    shown = told.cplane("log", "verify", "--file", str(file), check=False)
    assert shown.returncode == 1
    assert shown.stdout.splitlines()[0].split(maxsplit=1) == ["log:", "NOT SOUND"]
    assert shown.stderr.startswith(f"cplane: position {AT}: ")


def test_a_log_that_is_changed_under_a_running_agent_is_found_by_verify_and_at_the_next_start(told: Agent) -> None:
    try:
        told.start()
        assert told.cplane("log", "verify").returncode == 0
        with closing(sqlite3.connect(told.state / "log.db")) as log, log:
            data_flipped(log)
        shown = told.cplane("log", "verify", "-o", "json", check=False)
        assert shown.returncode == 1
        assert f'"position": {AT}' in shown.stdout
        assert shown.stderr.startswith(f"cplane: position {AT}: its digest does not fit")
        told.stop()
        assert f"position {AT}: " in told.fails_to_start()[1]
    finally:
        told.remove()


def test_a_damaged_file_is_refused_and_named(told: Agent) -> None:
    """Bytes are lost in the middle of the file, as bad disks do it."""
    file = told.state / "log.db"
    with file.open("r+b") as damaged:
        damaged.seek(4096)
        damaged.write(bytes(range(256)) * ((file.stat().st_size - 4096) // 256))
    status, words = told.fails_to_start()
    assert (status, str(file) in words or "position" in words) == (1, True), words
    assert told.cplane("log", "verify", "--file", str(file), check=False).returncode == 1


@pytest.mark.parametrize("content", [b"this is no database\n" * 500, b"SQLite format 3\0" + bytes(4080)])
def test_a_file_that_is_no_log_is_refused_and_left_as_it_is(told: Agent, content: bytes) -> None:
    file = told.state / "log.db"
    for left in told.state.glob("log.db*"):
        left.unlink()
    file.write_bytes(content)
    status, words = told.fails_to_start()
    assert status == 1
    assert f"{file} is not an event log of cplane" in words
    assert file.read_bytes() == content


def test_a_database_of_somebody_else_is_refused_and_left_as_it_is(told: Agent) -> None:
    file = told.state / "log.db"
    for left in told.state.glob("log.db*"):
        left.unlink()
    with closing(sqlite3.connect(file)) as other, other:
        other.execute("CREATE TABLE events (id INTEGER)")
    before = file.read_bytes()
    status, words = told.fails_to_start()
    assert status == 1
    assert f"{file} is not an event log of cplane: it has no table 'alembic_version'" in words
    assert file.read_bytes() == before


def test_a_copy_of_the_log_is_sound_and_tells_the_same(told: Agent, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(told.state / "log.db")) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    shown = [
        told.cplane("log", "verify", "--file", str(file), "-o", "yaml").stdout for file in (told.state / "log.db", copy)
    ]
    assert shown[0] == shown[1]
    assert "ok: true" in shown[0]
