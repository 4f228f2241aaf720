"""When to try again. Pure: chance is told."""

from typing import Final

_FIRST_S: Final = 0.5


class Backoff:
    """Delays that double, up to `most_s`, each shortened by chance so that those who failed together do not return so.

    What lasted for `most_s` was no failure at the start: the next delay is the first one again.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._next_s = min(_FIRST_S, most_s)

    def after(self, lasted_s: float, chance: float) -> float:
        """Seconds to wait after an attempt that lasted so long; `chance` is in [0, 1)."""
        if lasted_s >= self._most_s:
            self._next_s = min(_FIRST_S, self._most_s)
        delay = self._next_s * (1 - chance / 2)
        self._next_s = min(2 * self._next_s, self._most_s)
        return delay
