"""What the event log needs from others, by shape."""

from typing import Protocol


class Clock(Protocol):
    """The recorder's clock."""

    def now_ns(self) -> int:
        """UTC nanoseconds since the epoch."""
        ...
