"""What the demo prints: numbered steps, commands with their output, and checks with ✓ or ✗."""

import os
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence

from tests.support.pods import Asked

_BOLD, _DIM, _GREEN, _RED, _OFF = "\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[0m"
_WIDTH = 110


class WrongError(Exception):
    """A check failed; what differed has been printed."""


class Screen:
    """Prints steps and checks; colours only on a terminal that wants them."""

    def __init__(self) -> None:
        self._colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._step = 0
        self._began = time.monotonic()
        self.checks = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._began

    def step(self, title: str, text: str = "") -> None:
        """A new step, and what it will check."""
        self._step += 1
        self._print(f"\n{self._paint(_BOLD, f'{self._step}. {title}')}  {self._paint(_DIM, f'{self.elapsed_s:.1f} s')}")
        self.say(text)

    def say(self, text: str) -> None:
        """A paragraph."""
        for line in textwrap.wrap(text, _WIDTH - 3):
            self._print(f"   {line}")

    def command(self, command: str, output: str = "", *, limit: int = 40) -> None:
        """A command that was run, and what it printed, the last `limit` lines of it."""
        self._print(f"   {self._paint(_BOLD, '$')} {command}")
        lines = output.rstrip().splitlines()
        if len(lines) > limit:
            self._print(self._paint(_DIM, f"     … {len(lines) - limit} lines before"))
        for line in lines[-limit:]:
            self._print(f"     {line.expandtabs()}")

    def check(self, what: str, wrong: Sequence[str] = ()) -> None:
        """✓ where nothing is wrong; otherwise ✗ with what differed. Raises WrongError."""
        self.checks += 1
        if not wrong:
            self._print(f"   {self._paint(_GREEN, '✓')} {what}")
            return
        self._print(f"   {self._paint(_RED, '✗')} {what}")
        for line in wrong:
            self._print(f"       {line}")
        raise WrongError(what)

    def matrix(self, names: Iterable[str], answers: Mapping[Asked, bool]) -> None:
        """Who reaches whom, as a table: a mark for IPv4 and one for IPv6."""
        names = list(names)
        rows = [["from \\ to", *names]]
        rows.extend([source, *(self._cell(answers, source, target) for target in names)] for source in names)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            text = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            self._print("     " + text.replace("✓", self._paint(_GREEN, "✓")).replace("✗", self._paint(_RED, "✗")))
        self._print(self._paint(_DIM, "     marks: IPv4, IPv6"))

    def _cell(self, answers: Mapping[Asked, bool], source: str, target: str) -> str:
        if source == target:
            return "·"
        parts = []
        for protocol in ("tcp", "icmp"):
            marks = "".join("✓" if answers[Asked(source, target, protocol, family)] else "✗" for family in (4, 6))
            parts.append(f"{protocol.upper()} {marks}")
        return "  ".join(parts)

    def _paint(self, how: str, text: str) -> str:
        return f"{how}{text}{_OFF}" if self._colours else text

    @staticmethod
    def _print(text: str) -> None:
        print(text, flush=True)
