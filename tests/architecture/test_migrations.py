"""The migrations give the schema that the code expects, and the next one is written by scripts/gen-migration."""

import ast
import re
import runpy
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from cplane.eventlog.schema import METADATA, REVISIONS
from cplane.eventlog.sqlite import migrations, open_writer
from tests.support import log
from tests.support.tree import ROOT

VERSIONS = sorted((ROOT / "migrations" / "versions").glob("[0-9]*.py"))


def shape(path: Path) -> dict[str, object]:
    """Everything that SQLite knows of the tables in a file, Alembic's own left out."""
    with closing(sqlite3.connect(path)) as connection:

        def ask(pragma, name):
            return connection.execute(f"SELECT * FROM pragma_{pragma}('{name}')").fetchall()

        tables = [
            row for row in connection.execute("PRAGMA table_list") if not row[1].startswith(("sqlite", "alembic"))
        ]
        indices = {row[1]: ask("index_list", row[1]) for row in tables}
        return {
            "tables": tables,
            "columns": {row[1]: ask("table_xinfo", row[1]) for row in tables},
            "foreign keys": {row[1]: ask("foreign_key_list", row[1]) for row in tables},
            "indices": indices,
            "indexed": {index[1]: ask("index_xinfo", index[1]) for found in indices.values() for index in found},
            "words": {
                name: sorted(re.split(r"[\s,()]+", text))
                for name, text in connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
                if not name.startswith("alembic")
            },
        }


def test_the_migrations_give_exactly_the_schema_of_the_code(tmp_path):
    open_writer(str(tmp_path / "migrated")).dispose()
    engine = create_engine(f"sqlite:///{tmp_path}/created")
    METADATA.create_all(engine)
    engine.dispose()
    migrated = shape(tmp_path / "migrated")
    assert migrated == shape(tmp_path / "created")
    assert [(name, kind, strict) for _, name, kind, _, _, strict in migrated["tables"]] == [("events", "table", 1)]


def test_every_migration_is_listed_in_its_order_and_follows_the_one_before():
    assert [path.name[:4] for path in VERSIONS] == list(REVISIONS)
    assert [f"{number:04}" for number in range(1, len(REVISIONS) + 1)] == list(REVISIONS)
    for path, before in zip(VERSIONS, (None, *REVISIONS), strict=False):
        assigned = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)]
        values = {ast.unparse(node.targets[0]): node.value for node in assigned}
        named = {name: ast.literal_eval(values[name]) for name in ("revision", "down_revision")}
        assert named == {"revision": path.name[:4], "down_revision": before}


def test_a_migration_is_history_and_imports_nothing_of_ours():
    assert [path.name for path in VERSIONS if re.search(r"\bcplane\b|\bdatapath\b", path.read_text())] == []


def test_every_migration_can_be_undone(tmp_path):
    config = Config()
    config.set_main_option("script_location", str(migrations()))
    engine = create_engine(f"sqlite:///{tmp_path}/log")
    for revision in ("head", "base", "head"):
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            (command.downgrade if revision == "base" else command.upgrade)(config, revision)
        if revision == "base":
            assert shape(tmp_path / "log")["tables"] == []
    engine.dispose()


def test_migrations_are_for_files_that_are_opened_and_for_nothing_else():
    config = Config()
    config.set_main_option("script_location", str(migrations()))
    with pytest.raises(Exception, match="migrations run when a log is opened"):
        command.upgrade(config, "head")


# scripts/gen-migration


@pytest.fixture
def tree(tmp_path):
    """A copy of what the script reads and writes, and of the package that it imports."""
    return copied(tmp_path, "cplane", "migrations", "scripts", "pyproject.toml")


@pytest.fixture
def written(tmp_path):
    """A copy of what the script reads and writes."""
    return copied(tmp_path, "cplane/eventlog/schema.py", "migrations", "scripts/gen-migration", "pyproject.toml")


def copied(to: Path, *names: str) -> Path:
    for name in names:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, to / name)
    return to


def generate(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/gen-migration", *arguments]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)


def generate_here(tree: Path, slug: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """As `generate`, in this process: quicker, where the schema is that of this tree."""
    monkeypatch.setattr(sys, "argv", ["gen-migration", slug])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(tree / "scripts" / "gen-migration"), run_name="__main__")
    told = capsys.readouterr()
    return ended.value.code, told.out, told.err


def change_schema(tree: Path) -> None:
    """The schema has one more column, one more index and one more table."""
    schema = tree / "cplane" / "eventlog" / "schema.py"
    text = schema.read_text().replace(
        "COLUMNS: Final = ",
        'EVENTS.append_column(Column("node", Text, nullable=False, server_default=""))\n'
        'Index("ix_events_node", EVENTS.c.node)\n'
        'NOTES = Table("notes", METADATA, Column("position", _BIGINT, primary_key=True, autoincrement=False),\n'
        '    Column("text", Text, nullable=False), UniqueConstraint("text", name="uq_text"), sqlite_strict=True)\n'
        "COLUMNS: Final = ",
        1,
    )
    schema.write_text(text.replace("import BigInteger", "import Index, BigInteger"))


def files(tree: Path) -> dict[Path, bytes]:
    kept = (path for path in tree.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path: path.read_bytes() for path in kept if path.suffix in {".py", ".mako", ".toml"}}


@pytest.mark.slow
def test_what_changed_in_the_schema_becomes_the_next_migration_and_old_files_follow(tree):
    anyio.run(log.written, tree / "log", 3)
    change_schema(tree)
    done = generate(tree, "notes_and_nodes")
    number = f"{len(REVISIONS) + 1:04}"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"wrote migrations/versions/{number}_notes_and_nodes.py",
        f"added {number} to REVISIONS in cplane/eventlog/schema.py",
    ]
    written = (tree / f"migrations/versions/{number}_notes_and_nodes.py").read_text()
    assert written.startswith('"""Notes and nodes."""\n')
    assert f'revision = "{number}"\ndown_revision = "{REVISIONS[-1]}"\n' in written
    assert "###" not in written
    for word in ('"notes"', '"uq_text"', "sqlite_strict=True", '"node"', '"ix_events_node"'):
        assert word in written
    for tool in (("check",), ("format", "--check")):
        subprocess.run([ROOT / ".venv/bin/ruff", *tool, "--quiet", "migrations"], cwd=tree, check=True)
    opened = (
        "import sys; from cplane.eventlog.sqlite import open_writer; from cplane.eventlog.schema import REVISIONS\n"
        "open_writer(sys.argv[1]).dispose(); print(REVISIONS)"
    )
    script = [sys.executable, "-c", opened, str(tree / "log")]
    done = subprocess.run(script, cwd=tree, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str((*REVISIONS, number)), done.stderr
    assert {row[1] for row in shape(tree / "log")["tables"]} == {"events", "notes"}
    assert log.sql(tree / "log", "SELECT position, node FROM events") == [(1, ""), (2, ""), (3, "")]
    assert generate(tree, "again").stderr == (
        "gen-migration: schema.py is what the migrations give already: change it first; nothing was written\n"
    )


@pytest.mark.parametrize(
    ("slug", "code", "reason"),
    [
        ("Audit", 2, "'Audit' is no slug: lower-case words with _ between them, at most 40 characters"),
        ("../../x", 2, "is no slug"),
        ("x" * 41, 2, "is no slug"),
        ("event_log", 1, "migrations/versions/0001_event_log.py has this name already: choose another; nothing was"),
        ("nothing_changed", 1, "schema.py is what the migrations give already: change it first; nothing was written"),
    ],
)
def test_nonsense_is_refused_and_nothing_is_written(written, slug, code, reason, monkeypatch, capsys):
    before = files(written)
    ended, out, told = generate_here(written, slug, monkeypatch, capsys)
    assert (ended, out, reason in told) == (code, "", True), told
    assert files(written) == before


def test_a_list_that_does_not_fit_the_files_is_refused(written, monkeypatch, capsys):
    (written / "migrations/versions/0009_stray.py").write_text('"""Stray."""\n')
    before = files(written)
    code, _, told = generate_here(written, "more", monkeypatch, capsys)
    assert code == 1
    assert f"0009_stray.py, and REVISIONS in schema.py is {REVISIONS}; nothing was written" in told
    assert files(written) == before
