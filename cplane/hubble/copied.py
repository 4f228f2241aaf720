"""Flows that somebody took away: copies of a ring and of its archive, which are only read, and no agent is asked."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cplane.errors import Rejected
from cplane.hubble.archive.folder import has_parquet, segments_in
from cplane.hubble.archive.segment import Segment
from cplane.hubble.kept import restore
from cplane.hubble.payloads import SUFFIX as PAYLOADS_SUFFIX
from cplane.hubble.payloads import read_payloads
from cplane.hubble.recorded import Recorded
from cplane.hubble.ring import FlowRing
from cplane.hubble.ringfile import MAGIC, NotOurs, RingFile, read_file
from cplane.hubble.store import FlowStore
from cplane.hubble.tablefile import SUFFIX, read_tables

_PARQUET: Final = b"PAR1"
_DOUBTFUL: Final = 8  # the part of a ring, as 1/n, that may have been written over while it was copied


class NotFlows(Rejected):
    """What should have flows has none that can be read."""

    code = "hubble.not_flows"

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def is_copied(path: str) -> bool:
    """Whether it is for `open_copies`: a folder, a ring or a segment, and no text. Raises OSError."""
    if os.path.isdir(path):
        return True
    with open(path, "rb") as file:
        return file.peek(len(MAGIC)).startswith((MAGIC, _PARQUET))


def open_copies(paths: Iterable[str]) -> Recorded:
    """The flows in ring files, in segments, and in folders that have some of these. Raises NotFlows, OSError."""
    stores: dict[str, FlowStore] = {}
    segments: dict[str, Segment] = {}
    for path in paths:
        rings, found = _in_folder(path) if os.path.isdir(path) else _in_file(path)
        for one in rings:
            store = _store(one)
            if store.ring.written >= stores.get(store.seed, store).ring.written:  # of two copies of a ring, the later
                stores[store.seed] = store
        segments |= {one.path.name: one for one in found}  # which says all that a segment is
    if segments and not has_parquet():
        raise NotFlows(str(next(iter(segments.values())).path), "reading it needs pyarrow: install cplane[archive]")
    return Recorded(list(stores.values()), sorted(segments.values(), key=lambda one: (one.start, one.stop)))


def _in_folder(path: str) -> tuple[list[str], list[Segment]]:
    rings = [entry.path for entry in os.scandir(path) if entry.is_file() and _begins(entry.path, MAGIC)]
    segments = segments_in(Path(path))
    if not rings and not segments:
        raise NotFlows(path, "the folder has no flows: neither a flow ring nor segments of an archive")
    return sorted(rings), segments


def _in_file(path: str) -> tuple[list[str], list[Segment]]:
    if _begins(path, MAGIC):
        return [path], []
    segment = Segment.of(Path(path), os.stat(path).st_size)
    if segment is None:
        raise NotFlows(path, "it is no segment of an archive of flows: its name does not say what it has")
    return [], [segment]


def _begins(path: str, magic: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(magic)) == magic


class _Copy(FlowRing):
    """The rows of a file that somebody else wrote, and may still write into."""

    def __init__(self, file: RingFile) -> None:
        super().__init__(file.capacity, file)
        self._file = file
        # What a copy says of its rows was copied first. What the agent wrote meanwhile took the place of the oldest.
        doubtful = 0 if file.is_closed else file.capacity // _DOUBTFUL
        self._whole = self.written + doubtful - file.capacity

    @property
    def oldest(self) -> int:
        """Position of the oldest flow that is there for sure; it grows where the file is no copy."""
        return min(self.written, max(super().oldest, self._file.oldest, self._whole))


def _store(path: str) -> FlowStore:
    try:
        file = read_file(path)
        file.check_positions()
    except NotOurs as reason:
        raise NotFlows(path, f"the flow ring cannot be read: {reason}") from None
    # Who the node was stands in no file, and in no answer here.
    store = FlowStore(cluster="", node="", seed=file.ring_id.hex(), ring=_Copy(file))
    try:
        restore(store, read_tables(path + SUFFIX, file.ring_id, file.tables_end))
    except NotOurs as reason:
        text = f"the names of its flows cannot be read: {reason}; copy {Path(path).name}{SUFFIX} too, after the ring"
        raise NotFlows(path, text) from None
    store.payloads = read_payloads(path + PAYLOADS_SUFFIX, file.ring_id)
    return store
