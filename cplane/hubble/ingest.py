"""From the kernel's ring buffer into the flow ring: one task, whole batches."""

from collections.abc import Callable
from typing import Final

import anyio
import anyio.lowlevel
import numpy as np
import numpy.typing as npt

from cplane.hubble.parser.threefour import Parser
from cplane.hubble.store import FlowStore

BATCH: Final = 4096  # records taken at a time
_BUSY_S: Final = 0.010  # between looks while flows come
_IDLE_S: Final = 0.050  # ... when none has come for a while
_NS: Final = 1_000_000_000


class LossLedger:
    """Losses of the kernel's ring, told to the flow ring once a second at most, the first one at once."""

    def __init__(self, store: FlowStore, lost: Callable[[], int]) -> None:
        self._store, self._lost = store, lost
        self._known = lost()
        store.resume(self._known)  # what was lost before we came is told as our absence, or is not ours to tell
        self._pending, self._first_ns, self._told_ns = 0, 0, -_NS

    def check(self, now_ns: int) -> bool:
        """Whether losses were told now. `now_ns` is UTC."""
        total = self._lost()
        if total != self._known:
            # a counter that went back belongs to a new ring, and starts from 0
            new = total - self._known if total > self._known else total
            self._known = total
            self._first_ns = self._first_ns if self._pending else now_ns
            self._pending += new
        if not self._pending or abs(now_ns - self._told_ns) < _NS:
            return False
        self._store.lose(self._pending, self._first_ns, now_ns, kernel_lost=total)
        self._pending, self._told_ns = 0, now_ns
        return True


async def pump(
    drain: Callable[[int], npt.NDArray[np.void]],
    lost: Callable[[], int],
    store: FlowStore,
    parser: Parser,
    *,
    now_ns: Callable[[], int],
    offset_ns: Callable[[], int],
) -> None:
    """Records become flows until this is cancelled.

    `drain(n)` gives up to `n` records (of `datapath.notify.records.DTYPE`, valid until the next call) and never
    waits; `lost()` counts records that the kernel could not write; `now_ns` is UTC, and `offset_ns` UTC minus
    the kernel's boot clock, asked once a second. Followers are woken once for each round.
    """
    ledger = LossLedger(store, lost)
    offset, asked_ns, pause = offset_ns(), now_ns(), _BUSY_S
    while True:
        now = now_ns()
        if abs(now - asked_ns) >= _NS:
            offset, asked_ns = offset_ns(), now
        records = drain(BATCH)
        taken = parser.ingest(records, offset) if len(records) else 0
        if ledger.check(now) or taken:
            store.changed.notify()
        if len(records) >= BATCH:
            await anyio.lowlevel.checkpoint()  # there is more; let others run in between
            continue
        pause = _BUSY_S if len(records) else min(pause * 1.2, _IDLE_S)
        await anyio.sleep(pause)
