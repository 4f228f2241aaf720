"""How often each kind of flow came: one number for each, until somebody wants to know what that makes of the series."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from cplane.telemetry.metrics import Count

_FIRST: Final = 1024  # kinds that there is room for at first


class Tally:
    """Counts kinds. `series` says where a kind counts; it is asked once, when the kind comes first."""

    def __init__(self, series: Callable[[bytes], tuple[Count, ...]]) -> None:
        self._find = series
        self._numbers: dict[bytes, int] = {}
        self._series: list[tuple[Count, ...]] = []
        self._counts = np.zeros(_FIRST, np.int64)

    def __len__(self) -> int:
        return len(self._series)

    def add(self, kinds: Sequence[bytes], counts: npt.NDArray[np.intp]) -> None:
        """Each of the kinds came so often; one may be there more than once."""
        known = self._numbers
        try:
            numbers = [known[kind] for kind in kinds]
        except KeyError:
            for kind in kinds:
                if kind not in known:
                    known[kind] = len(self._series)
                    self._series.append(self._find(kind))
            numbers = [known[kind] for kind in kinds]
        if len(self._series) > len(self._counts):
            grown = np.zeros(2 * len(self._series), np.int64)
            grown[: len(self._counts)] = self._counts
            self._counts = grown
        np.add.at(self._counts, numbers, counts)

    def settle(self) -> None:
        """The series have all that was counted."""
        for number in np.flatnonzero(self._counts).tolist():
            count = int(self._counts[number])
            for one in self._series[number]:
                one.value += count
        self._counts[:] = 0

    def forget(self) -> None:
        """The series have all that was counted, and no kind is known any more."""
        self.settle()
        self._numbers.clear()
        self._series.clear()
        self._counts = np.zeros(_FIRST, np.int64)
