"""The clock and the source of ids: the only caller of `time` and `uuid` in cplane."""

import time
import uuid


class SystemClock:
    """The machine's clocks."""

    def now_ns(self) -> int:
        """UTC nanoseconds since the epoch."""
        return time.time_ns()

    def boot_ns(self) -> int:
        """Nanoseconds since the machine started, suspension included; what `bpf_ktime_get_boot_ns` reads."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def monotonic_ns(self) -> int:
        """Nanoseconds on a clock that never steps; for durations only."""
        return time.monotonic_ns()

    def boot_offset_ns(self) -> int:
        """What must be added to a kernel record's time to get UTC nanoseconds.

        The two clocks are read one after the other; of five tries the one with the least delay between them
        counts. It changes when UTC is stepped, so long-lived readers ask again from time to time.
        """
        best, offset = None, 0
        for _ in range(5):
            before = self.boot_ns()
            now = self.now_ns()
            after = self.boot_ns()
            if best is None or after - before < best:
                best, offset = after - before, now - (before + after) // 2
        return offset

    def new_id(self) -> str:
        """A random id, 32 hexadecimal digits; no two are equal."""
        return uuid.uuid4().hex  # noqa: TID251  # this is the home of ids
