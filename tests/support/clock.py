"""A clock that moves by one nanosecond each time it is asked."""


class TickingClock:
    """Deterministic, strictly increasing."""

    def __init__(self, start_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now = start_ns

    def now_ns(self) -> int:
        self._now += 1
        return self._now
