"""How far a long piece of work is, as a bar on standard error, for whoever sits in front of a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.progress import Progress

Told = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is, and of how much."""

PATIENCE_S: Final = 0.5  # what is done by then needs no bar, and none of what makes one is loaded


@contextmanager
def progress(patience_s: float = PATIENCE_S) -> Iterator[Told]:
    """What is told inside can be seen, if standard error is a terminal and it takes long; nothing stays of it.

    The bar is gone as soon as a piece of work is all done. What is printed meanwhile on the same terminal goes above.
    """
    if not sys.stderr.isatty():
        yield _quietly
        return
    bar = _Bar(time.monotonic() + patience_s)
    try:
        yield bar.tell
    finally:
        bar.close()


def _quietly(what: str, done: int, total: int) -> None:
    """Nobody looks."""


class _Bar:
    def __init__(self, patient_until: float) -> None:
        self._patient_until = patient_until
        self._shown: Progress | None = None

    def tell(self, what: str, done: int, total: int) -> None:
        """As Told."""
        if done >= total:
            self.close()
            return
        if self._shown is None:
            if time.monotonic() < self._patient_until:
                return
            self._shown = _started(what, done, total)
        self._shown.update(self._shown.task_ids[0], description=what, completed=done, total=total)

    def close(self) -> None:
        """There is none. Idempotent."""
        if self._shown is not None:
            self._shown.stop()
            self._shown = None


def _started(what: str, done: int, total: int) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shared = sys.stdout.isatty()  # then lines go above the bar, and not through it
    made = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=shared)
    made.add_task(what, completed=done, total=total)
    made.start()
    return made
