"""Values that many rows share, by number, for as long as a row names them."""

from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")

_COLLECT_FROM: Final = 4096  # entries below which looking for unused ones is not worth it


class Interned(Generic[T]):
    """A number for each distinct value; 0 is `empty`.

    Numbers that no row uses are given to new values once there are twice as many as were in use at the last
    look, so the table is bounded by what the ring holds. `generation` grows when a number may have changed its
    meaning: who remembers anything by number must forget it then.
    """

    def __init__(self, empty: T) -> None:
        self._values: list[T] = [empty]
        self._numbers: dict[T, int] = {empty: 0}
        self._free: list[int] = []
        self._collect_at = _COLLECT_FROM
        self._fresh: list[int] = []
        self.generation = 0

    def number(self, value: T) -> int:
        """The number of `value`, from now on."""
        known = self._numbers.get(value)
        if known is not None:
            return known
        if self._free:
            number = self._free.pop()
            self._values[number] = value
        else:
            number = len(self._values)
            self._values.append(value)
        self._numbers[value] = number
        self._fresh.append(number)
        return number

    def take_fresh(self) -> list[tuple[int, T]]:
        """Numbers that have got a value since this was asked last, with their values."""
        if not self._fresh:
            return []
        fresh, self._fresh = self._fresh, []
        return [(number, self._values[number]) for number in fresh]

    def entries(self) -> Iterator[tuple[int, T]]:
        """Every number that is not free, but 0, with its value."""
        free = frozenset(self._free)
        return ((n, value) for n, value in enumerate(self._values) if n and n not in free)

    def restore(self, entries: Iterable[tuple[int, T]]) -> None:
        """The table has these values under these numbers, later ones in the place of earlier ones, and no others."""
        given = dict(entries)
        empty = self._values[0]
        self._values = [empty] * (max(given, default=0) + 1)
        for number, value in given.items():
            self._values[number] = value
        self._values[0] = empty
        # of two numbers for one value, which a crash can leave, rows may name both; new ones get the later one
        self._numbers = {empty: 0, **{value: number for number, value in given.items() if number}}
        self._free = [n for n in range(1, len(self._values)) if n not in given]
        self._fresh = []
        self._collect_at = max(_COLLECT_FROM, 2 * len(self._numbers))
        self.generation += 1

    def __getitem__(self, number: int) -> T:
        return self._values[number]

    def __len__(self) -> int:
        return len(self._values)

    def values_from(self, number: int) -> list[T]:
        """The values of `number` and all above it, in order."""
        return self._values[number:]

    @property
    def is_full(self) -> bool:
        """Whether it is time to `collect`."""
        return len(self._numbers) >= self._collect_at

    def collect(self, used: Iterable[npt.NDArray[np.uint32]]) -> None:
        """Free every number that is in none of the arrays."""
        live = np.zeros(len(self._values), np.bool_)
        live[0] = True
        for numbers in used:
            live[numbers] = True
        self._numbers = {value: n for value, n in self._numbers.items() if live[n]}
        self._free = np.flatnonzero(~live).tolist()
        self._fresh = [number for number in self._fresh if live[number]]
        empty = self._values[0]
        for number in self._free:
            self._values[number] = empty
        self._collect_at = max(_COLLECT_FROM, 2 * len(self._numbers))
        self.generation += 1
