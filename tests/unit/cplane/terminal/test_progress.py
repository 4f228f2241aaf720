"""A bar is there for who sits in front of a terminal, only while there is something to wait for."""

import io
import sys

import pytest

from cplane.terminal.progress import progress

WIPED = "\x1b[1A\x1b[2K"


class Terminal(io.StringIO):
    """Standard error of somebody who looks."""

    def isatty(self) -> bool:
        return True


def sits_there(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Somebody does; for the test's own body, as pytest gives it another standard error than its fixtures."""
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("TERM", "xterm")
    return made


def test_what_takes_long_is_shown_and_nothing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = sits_there(monkeypatch)
    with progress(0) as told:
        told("indexing", 1, 4)
        told("indexing", 2, 4)
        shown = terminal.getvalue()
        told("indexing", 4, 4)
        ended = terminal.getvalue()
    assert "indexing" in shown
    assert ended.endswith(WIPED), "the line is wiped out as soon as all is done"
    assert terminal.getvalue() == ended


def test_one_piece_of_work_after_another_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = sits_there(monkeypatch)
    with progress(0) as told:
        for what in ("folding", "indexing"):
            told(what, 1, 2)
            told(what, 2, 2)
    assert terminal.getvalue().index("folding") < terminal.getvalue().index("indexing")


def test_what_is_done_soon_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = sits_there(monkeypatch)
    with progress() as told:
        told("indexing", 1, 4)
        told("indexing", 4, 4)
    assert terminal.getvalue() == ""


def test_nobody_looks_at_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    with progress(0) as told:
        told("indexing", 1, 4)
    assert file.getvalue() == ""


def test_an_error_leaves_no_bar_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = sits_there(monkeypatch)

    def work() -> None:
        with progress(0) as told:
            told("indexing", 1, 4)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    assert terminal.getvalue().endswith(WIPED)
