"""Offline commands, run in this process."""

from pathlib import Path
from typing import NamedTuple

from click.testing import CliRunner

from cplane.cli.main import cli
from tests.support.tree import ROOT

GOLDEN = ROOT / "tests/golden/policies"


class Ran(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str


def policy(*arguments: str | Path, stdin: str | bytes = b"", color: bool = False) -> Ran:
    """`cplane policy …`; `color` is whether the output is a terminal's."""
    command = ["policy", *map(str, arguments)]
    done = CliRunner().invoke(cli, command, input=stdin, prog_name="cplane", color=color)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Ran(done.exit_code, done.stdout, done.stderr)
