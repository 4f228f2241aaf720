"""A store that outlives its process: the ring's file, the table file beside it, and what happens when they fail."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec
import numpy as np

from cplane.hubble.payloads import BASE_BITS, PayloadRing, create_payloads, open_payloads
from cplane.hubble.payloads import SUFFIX as PAYLOADS_SUFFIX
from cplane.hubble.ring import FlowRing, Loss
from cplane.hubble.ringfile import NotOurs, RingFile, create_file, open_file
from cplane.hubble.store import FlowStore
from cplane.hubble.tablefile import SUFFIX, Entry, TableFile, create_tables, open_tables
from cplane.telemetry.log import line, logger

log = logger("hubble")

ASIDE: Final = ".refused"  # after the name of what was in the ring's place and is no ring
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_LOSSES: Final = "losses"  # a table whose numbers mean nothing
_NUMBERS_MAX: Final = 1 << 26  # in a table: two for each row of the largest ring, with room
_TIDY_FROM: Final = 16 << 20  # bytes of a table file below which it is not rewritten for its size
_ROWS: Final = 1 << 14  # looked at together
_HOUR_NS: Final = 3600 * 1_000_000_000
_encoder: Final = msgspec.msgpack.Encoder()


def boot_id() -> bytes:
    """16 bytes that are others after each boot of the machine; zeros where nobody knows."""
    try:
        return UUID(_BOOT_ID.read_text().strip()).bytes
    except (OSError, ValueError):
        return bytes(16)


def open_store(
    path: str, *, cluster: str, node: str, capacity: int, new_id: str, boot: bytes, start: int = 0
) -> FlowStore:
    """The flows that are in the file, and those to come; in memory alone when `path` is empty or cannot be used.

    A file that cannot be gone on with is replaced, with one line that says why; what is no ring at all is set aside.
    `new_id` (32 hexadecimal digits) is for a ring that begins now, `boot` is a `boot_id`, `start` the least position
    of a ring that begins now. Raises FileInUse.
    """
    for _ in range(2 if path else 0):
        try:
            return _open(path, cluster, node, capacity, bytes.fromhex(new_id), boot, start)
        except NotOurs as reason:
            start = max(start, reason.position)
            log.warning(line("flow ring begins anew", path=path, error=str(reason), position=start))
            try:
                _make_way(path, foreign=reason.foreign)
            except OSError as error:
                _not_kept(path, error)
                break
        except OSError as error:
            _not_kept(path, error)
            break
    return FlowStore(cluster=cluster, node=node, seed=new_id, ring=FlowRing(capacity, start=start))


class Kept:
    """Keeps one store in its files. A disk that is full or gone moves the flows into memory, once and for all."""

    def __init__(self, store: FlowStore, file: RingFile, tables: TableFile, payloads: PayloadRing) -> None:
        self._store, self._file, self._payloads = store, file, payloads
        self._tables: TableFile | None = tables
        self._tidy_at = max(_TIDY_FROM, 4 * tables.size)

    @property
    def kernel_lost(self) -> int:
        """The kernel's count of lost records, as far as they are told."""
        return self._file.kernel_lost

    @kernel_lost.setter
    def kernel_lost(self, total: int) -> None:
        self._file.kernel_lost = total

    @property
    def works(self) -> bool:
        """Whether flows are in the files."""
        return self._tables is not None

    def prepare(self, count: int) -> None:
        """All that rows name is on file, and the next `count` of them will be."""
        stop = self._store.ring.written + count
        fresh = [
            _entry(name, number, value)
            for name, table in self._store.tables.items()
            for number, value in table.values.take_fresh()
        ]
        if self._tables is not None:
            try:
                self._tables.append(fresh)
                self._file.make_room(stop)
            except OSError as error:
                self._leave(error)
            else:
                if self._tables.size > self._tidy_at:
                    self.tidy()
        self._file.reserve(stop, self._tables.end if self._tables is not None else self._file.tables_end)

    def tidy(self) -> None:
        """Values that no row names are on file no longer; where that fails, they stay until the next time."""
        if self._tables is None:
            return
        try:
            self._tables.rewrite(self._entries())
        except OSError as error:
            log.warning(line("table file not rewritten", path=self._tables.path, error=_words(error)))
        self._tidy_at = max(_TIDY_FROM, 4 * self._tables.size)

    def keep_loss(self, loss: Loss) -> None:
        """The loss is on file."""
        if self._tables is not None:
            try:
                self._tables.append([_entry(_LOSSES, 0, loss)])
            except OSError as error:
                self._leave(error)

    def close(self) -> None:
        """Everything is on disk, and another process may go on with the files. No row may come after this."""
        try:
            self._payloads.close()  # the first: rows name what is in them
            if self._tables is not None:
                self._tables.close()
            self._file.close()
        except OSError as error:
            log.warning(line("flows may not survive a crash", path=self._file.path, error=_words(error)))

    def release(self) -> None:
        """Nothing is held, as if the process were killed. Idempotent."""
        if self._tables is not None:
            self._tables.release()
        self._payloads.release()
        self._file.release()

    def _leave(self, error: OSError) -> None:
        """The file goes on with the positions only, so that the next ring does not use them again."""
        assert self._tables is not None, "left twice"
        _not_kept(self._file.path, error)
        self._file.abandon()
        self._store.ring.leave()
        self._tables.release()
        self._tables = None

    def _entries(self) -> Iterator[Entry]:
        for name, table in self._store.tables.items():
            yield from (_entry(name, number, value) for number, value in table.values.entries())
        yield from (_entry(_LOSSES, 0, loss) for loss in self._store.ring.all_losses())


def _open(path: str, cluster: str, node: str, capacity: int, new_id: bytes, boot: bytes, start: int) -> FlowStore:
    """Raises NotOurs, FileInUse, OSError; nothing is held then."""
    found = open_file(path, capacity)
    file = found or create_file(path, capacity, new_id)
    tables: TableFile | None = None
    try:
        if found is None:
            tables, entries = create_tables(path + SUFFIX, new_id), list[Entry]()
            file.begin(boot, start)
        else:
            file.check(boot)
            if file.written < start:
                raise NotOurs(f"it ends at position {file.written}, and the archive goes on to {start}", position=start)
            tables, entries = open_tables(path + SUFFIX, file.ring_id, file.tables_end)
            file.begin(boot)
        file.make_room(min(file.written, capacity) + 1)
        store = FlowStore(cluster=cluster, node=node, seed=file.ring_id.hex(), ring=FlowRing(capacity, file))
        restore(store, entries)
        place = path + PAYLOADS_SUFFIX
        if found is None:
            payloads = create_payloads(place, file.ring_id)
        else:
            payloads = open_payloads(place, file.ring_id, start=_unused_place(store))
        store.payloads = payloads
    except BaseException as error:
        if tables is not None:
            tables.release()
        file.release()
        if isinstance(error, NotOurs):
            error.position = max(error.position, file.next_position)
        raise
    kept = Kept(store, file, tables, payloads)
    store.keeper, store.ring.told = kept, kept.keep_loss
    return store


def restore(store: FlowStore, entries: Iterable[Entry]) -> None:
    """The tables are as they were, and every row finds in them what it names. Raises NotOurs."""
    losses: list[Loss] = []
    values: dict[str, list[tuple[int, object]]] = {name: [] for name in store.tables}
    for name, number, raw in entries:
        if name != _LOSSES and name not in values:
            raise NotOurs(f"its rows name values of a table {name!r}, which this version does not have")
        if not 0 <= number < _NUMBERS_MAX:
            raise NotOurs(f"its table of {name} has a number {number}")
        try:
            if name == _LOSSES:
                losses.append(msgspec.msgpack.decode(raw, type=Loss))
            else:
                values[name].append((number, msgspec.msgpack.decode(raw, type=store.tables[name].kind)))
        except msgspec.DecodeError as error:
            raise NotOurs(f"its table of {name} has a value that cannot be read: {error}") from error
    for name, table in store.tables.items():
        table.values.restore(values[name])
        for column in table.columns:
            for part in store.ring.live(column):
                if len(part) and int(part.max()) >= len(table.values):
                    raise NotOurs(f"a row names number {int(part.max())} of {name}, which has {len(table.values)}")
    store.ring.restore_losses(losses)
    _restore_namespaces(store)


def _unused_place(store: FlowStore) -> int:
    """A place of payloads that no row names, for a ring of them that begins anew."""
    bases = [one.request.base for _, one in store.details.entries() if one.request is not None]
    return max(bases) + (1 << BASE_BITS) if bases else 0


def _restore_namespaces(store: FlowStore) -> None:
    """Namespaces of the hour before the newest flow."""
    ring = store.ring
    if not len(ring):
        return
    newest = int(ring.span(ring.written - 1, ring.written)["time_ns"][0])
    start = ring.oldest
    while start < ring.written:
        stop = min(ring.contiguous(start), start + _ROWS)
        span = ring.span(start, stop)
        seen_ns = int(span["time_ns"].max())
        if seen_ns >= newest - _HOUR_NS:
            present = np.zeros(len(store.endpoints), np.bool_)
            present[span["src_meta"]] = present[span["dst_meta"]] = True
            store.namespaces.saw((store.endpoints[n] for n in np.flatnonzero(present).tolist()), seen_ns)
        start = stop


def _make_way(path: str, *, foreign: bool) -> None:
    """There is no ring in that place."""
    if foreign:
        os.replace(path, path + ASIDE)
    else:
        os.unlink(path)


def _entry(table: str, number: int, value: object) -> Entry:
    return Entry(table, number, msgspec.Raw(_encoder.encode(value)))


def _not_kept(path: str, error: OSError) -> None:
    detail = "they do not survive a restart; make room or mend hubble.ring_path, then restart the agent"
    log.error(line("flows are in memory only", path=path, error=_words(error), detail=detail))


def _words(error: OSError) -> str:
    return error.strerror or str(error)
