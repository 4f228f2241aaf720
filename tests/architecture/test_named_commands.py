"""Commands that texts tell people to use are there."""

import re
from collections.abc import Iterator
from pathlib import Path

import click

from cplane.cli.main import cli

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`cplane((?: [a-z]+(?:-[a-z]+)*)+)")


def named() -> Iterator[tuple[str, list[str]]]:
    """Where a command is named, and its words."""
    pages = [*ROOT.glob("*.md"), *(page for part in ("cplane", "datapath", "bpf") for page in (ROOT / part).rglob("*"))]
    for page in pages:
        if page.suffix in {".py", ".md", ".yaml"} and "pb" not in page.parts:
            for found in NAMED.finditer(page.read_text(encoding="utf-8")):
                yield f"{page.relative_to(ROOT)}: `cplane{found[1]}`", found[1].split()


def is_there(words: list[str]) -> bool:
    """Whether they begin with a command; what stands behind it is its arguments."""
    here: click.Command | None = cli
    for word in words:
        if not isinstance(here, click.Group):
            return True
        here = here.commands.get(word)
        if here is None:
            return False
    return True


def test_every_command_that_is_named_in_messages_and_pages_exists() -> None:
    found = list(named())
    assert len(found) > 50
    assert [where for where, words in found if not is_there(words)] == []
