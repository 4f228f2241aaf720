"""Flows go from the ring into segments: one task, which copies on the event loop and writes off it."""

from collections.abc import Callable
from typing import Final

import anyio

from cplane.hubble.archive.folder import Archive
from cplane.hubble.archive.segment import take
from cplane.hubble.store import FlowStore
from cplane.telemetry.log import line, logger

log = logger("hubble")

ROWS: Final = 1 << 16  # of a segment; fewer where the ring is small or flows are rare
_AGE_NS: Final = 300 * 1_000_000_000  # of the oldest flow that waits, upon which it waits no longer
_LOOK_S: Final = 0.2
_REST_S: Final = 5.0  # after a failure
_EXPIRE_NS: Final = 60 * 1_000_000_000


class Closing:
    """Closes segments of one store. `position` is that of the next flow to be written."""

    def __init__(self, store: FlowStore, archive: Archive, now_ns: Callable[[], int]) -> None:
        self._store, self._archive, self._now_ns = store, archive, now_ns
        self._rows = max(1, min(ROWS, store.ring.capacity // 4))
        self._failing = False
        self._expired_ns = 0
        self.position = max(archive.stop, store.ring.oldest)

    async def run(self) -> None:
        """Flows are written as they come, until this is cancelled. A failure is counted, told once, and tried again."""
        while True:
            if not await self.close_one(all_rows=False):
                await anyio.sleep(_REST_S if self._failing else _LOOK_S)

    async def finish(self) -> None:
        """All flows of the ring are written, unless that fails."""
        while await self.close_one(all_rows=True):
            pass

    async def close_one(self, *, all_rows: bool) -> bool:
        """Whether a segment was written; `all_rows` also closes one that could wait for more."""
        now = self._now_ns()
        if abs(now - self._expired_ns) >= _EXPIRE_NS:
            await self._expire(now)
        ring = self._store.ring
        self.position = max(self.position, self._archive.stop)  # whoever was cancelled may have written it
        if self.position < ring.oldest:
            self._archive.missed += ring.oldest - self.position
            self.position = ring.oldest
        stop = min(ring.contiguous(self.position), self.position + self._rows)
        if stop == self.position:
            return False
        # up to where the ring wraps there will never be more rows for this segment
        whole = stop - self.position == self._rows or stop % ring.capacity == 0
        if not (whole or all_rows or self._waits_long(now)):
            return False
        draft = take(self._store, self.position, stop)
        try:
            await self._archive.write(draft)
        except OSError as error:
            self._fail(error)
            return False
        if self._failing:
            log.info(line("archive is written again", position=self.position, lost=self._archive.missed))
            self._failing = False
        self.position = stop
        await self._expire(now)
        return True

    def _fail(self, error: OSError) -> None:
        self._archive.failures += 1
        if not self._failing:
            detail = "flows go on; those that are overwritten before there is room again are counted as missed"
            words = error.strerror or str(error)
            log.error(line("archive cannot be written", position=self.position, error=words, detail=detail))
        self._failing = True

    def _waits_long(self, now_ns: int) -> bool:
        first = int(self._store.ring.span(self.position, self.position + 1)["time_ns"][0])
        return first < now_ns - _AGE_NS

    async def _expire(self, now_ns: int) -> None:
        self._expired_ns = now_ns
        await self._archive.expire(now_ns)
