"""Faults that repeat: something is tried again and again, and its log is not to say the same each time."""

from collections.abc import Callable


class Fault:
    """What is wrong with one thing. `tell` gets it, unless it is what was wrong the last time."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._last = tell, ""

    def now(self, text: str) -> None:
        """That is wrong now; empty: nothing is."""
        if text and text != self._last:
            self._tell(text)
        self._last = text
