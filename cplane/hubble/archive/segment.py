"""One segment of flows: a Parquet file with the ring's columns, and in its metadata all that the rows name.

A row's numbers count from 1 within the segment, so a file needs neither the ring nor another file to be read. The
file's name tells which positions and which times it has: a folder is its own index.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from cplane.hubble.detail import ACCESS
from cplane.hubble.payloads import HeldPayloads
from cplane.hubble.ring import COLUMNS, Array, FlowRing, Loss, Span
from cplane.hubble.store import FlowStore

VERSION: Final = 1
_NAME: Final = re.compile(r"flows-(\d{20})-(\d{20})-(\d{20})-(\d{20})\.parquet")
PARTIAL: Final = ".partial"  # after the name of a file that is being written
_METADATA: Final = b"cplane.flows"
_PAYLOAD: Final = "payload"  # a column beside the ring's, empty where a flow has none; older segments do not have it
_encoder: Final = msgspec.msgpack.Encoder()


class Unreadable(Exception):
    """A segment cannot be read; the text says why."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A file with the flows of positions `start` to `stop` (exclusive), the times of which lie within these two."""

    start: int
    stop: int
    first_ns: int
    last_ns: int
    path: Path
    size: int

    @classmethod
    def of(cls, path: Path, size: int) -> "Segment | None":
        """What a file's name says; None when it is no segment."""
        match = _NAME.fullmatch(path.name)
        if match is None:
            return None
        start, stop, first_ns, last_ns = map(int, match.groups())
        return cls(start, stop, first_ns, last_ns, path, size) if start < stop else None


class _About(msgspec.Struct, frozen=True):
    """What a file says of its rows. Values are in the order of their numbers, from 1 on."""

    version: int
    ring_id: str
    cluster: str
    node: str
    tables: dict[str, list[msgspec.Raw]]
    losses: list[Loss]


_decoder: Final = msgspec.msgpack.Decoder(_About)


@dataclass(frozen=True, slots=True)
class Draft:
    """Flows taken out of the ring, to be written."""

    start: int
    stop: int
    columns: Mapping[str, Array]
    values: Mapping[str, list[object]]
    payloads: Sequence[bytes]  # of each row; empty where none is there
    losses: tuple[Loss, ...]
    ring_id: str
    cluster: str
    node: str


class Chapter:
    """A segment that was read: a store of its own, which has tables but an empty ring, and the rows."""

    def __init__(self, segment: Segment, store: FlowStore, columns: Mapping[str, Array], losses: list[Loss]) -> None:
        self.segment, self.store = segment, store
        self._columns, self._losses = columns, losses

    def span(self, start: int, stop: int) -> Span:
        """Rows from `start` to `stop`, all of them the segment's."""
        assert self.segment.start <= start <= stop <= self.segment.stop, (self.segment, start, stop)
        return Span(self._columns, start, stop, start - self.segment.start)

    def losses(self, position: int) -> tuple[Loss, ...]:
        """Losses just before the flow at `position`."""
        return tuple(loss for loss in self._losses if loss.position == position)

    def all_losses(self, start: int, stop: int) -> tuple[Loss, ...]:
        """Losses before flows from `start` to `stop` (exclusive), in order."""
        return tuple(loss for loss in self._losses if start <= loss.position < stop)

    def next_loss(self, position: int) -> int | None:
        """The smallest position after `position` that has losses."""
        return min((loss.position for loss in self._losses if loss.position > position), default=None)


def take(store: FlowStore, start: int, stop: int) -> Draft:
    """Copies of the rows, which lie in the ring without a break, and of what they name."""
    span = store.ring.span(start, stop)
    columns = {name: span[name].copy() for name in COLUMNS}
    payloads = [b""] * (stop - start)
    for row in np.flatnonzero(columns["type"] == ACCESS).tolist():
        payloads[row] = store.payload(int(columns["detail"][row]), int(columns["cookie"][row]))
    values: dict[str, list[object]] = {}
    for name, table in store.tables.items():
        present = np.zeros(len(table.values), np.bool_)
        for column in table.columns:
            present[columns[column]] = True
        present[0] = False
        numbers = np.flatnonzero(present)
        renumbered = np.zeros(len(table.values), np.uint32)
        renumbered[numbers] = np.arange(1, len(numbers) + 1)
        for column in table.columns:
            columns[column] = renumbered[columns[column]]
        values[name] = [table.values[number] for number in numbers.tolist()]
    cluster, _, node = store.node_name.partition("/")
    losses = store.ring.all_losses(start, stop)
    return Draft(start, stop, columns, values, payloads, losses, store.seed, cluster, node)


def write(draft: Draft, folder: Path) -> Segment:
    """The draft is a file of the folder, and on disk. Raises OSError; nothing of it is left then."""
    import pyarrow as pa  # a second, and only where an archive is wanted
    from pyarrow import parquet

    about = _About(
        version=VERSION,
        ring_id=draft.ring_id,
        cluster=draft.cluster,
        node=draft.node,
        tables={name: [msgspec.Raw(_encoder.encode(one)) for one in values] for name, values in draft.values.items()},
        losses=list(draft.losses),
    )
    arrays = [*(_to_arrow(pa, draft.columns[name]) for name in COLUMNS), pa.array(draft.payloads, pa.binary())]
    names = (*COLUMNS, _PAYLOAD)
    schema = pa.schema(
        [pa.field(name, array.type, nullable=False) for name, array in zip(names, arrays, strict=True)],
        {_METADATA: _encoder.encode(about)},
    )
    times = draft.columns["time_ns"]
    first_ns, last_ns = int(times.min()), int(times.max())
    path = folder / f"flows-{draft.start:020}-{draft.stop:020}-{first_ns:020}-{last_ns:020}.parquet"
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            parquet.write_table(pa.Table.from_arrays(arrays, schema=schema), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return Segment(draft.start, draft.stop, first_ns, last_ns, path, size)


def read(segment: Segment) -> Chapter:
    """The flows of a segment. Raises Unreadable."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(segment.path) as file:
            names = [*COLUMNS, *({_PAYLOAD} & {*file.schema_arrow.names})]
            table = file.read(names, use_threads=False)
        about = _decoder.decode((table.schema.metadata or {}).get(_METADATA, b""))
        if about.version != VERSION:
            raise Unreadable(f"it is of version {about.version}, and this agent reads version {VERSION}")
        columns = {name: _from_arrow(table.column(name), kind) for name, kind in COLUMNS.items()}
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:  # of msgspec, too
        raise Unreadable(str(error)) from error
    rows = {len(column) for column in columns.values()}
    if rows != {segment.stop - segment.start}:
        raise Unreadable(f"it has {max(rows)} flows, and its name says {segment.stop - segment.start}")
    store = _store(about, columns, segment.start)
    if _PAYLOAD in table.column_names:
        store.payloads = HeldPayloads(_placed(store, columns, table.column(_PAYLOAD)))
    return Chapter(segment, store, columns, about.losses)


def ring_of(segment: Segment) -> str:
    """The id of the ring that the flows of a segment were in, which is read alone. Raises Unreadable."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(segment.path).metadata or {}
        return _decoder.decode(metadata.get(_METADATA, b"")).ring_id
    except (OSError, pa.ArrowException, ValueError) as error:
        raise Unreadable(str(error)) from error


def _store(about: _About, columns: Mapping[str, Array], start: int) -> FlowStore:
    store = FlowStore(cluster=about.cluster, node=about.node, seed=about.ring_id, ring=FlowRing(1, start=start))
    for name, table in store.tables.items():
        try:
            values = [msgspec.msgpack.decode(raw, type=table.kind) for raw in about.tables.get(name, [])]
        except msgspec.DecodeError as error:
            raise Unreadable(f"its table of {name} has a value that cannot be read: {error}") from error
        table.values.restore(enumerate(values, 1))
        for column in table.columns:
            if int(columns[column].max()) >= len(table.values):
                raise Unreadable(f"a row names number {int(columns[column].max())} of {name}, which is not there")
    return store


def _placed(store: FlowStore, columns: Mapping[str, Array], payloads: Any) -> dict[int, bytes]:  # Any: pyarrow's  # noqa: ANN401
    """By the places that rows name."""
    rows = np.flatnonzero(columns["type"] == ACCESS)
    numbers = (columns[name][rows].tolist() for name in ("detail", "cookie"))
    requests = ((store.details[detail].request, cookie) for detail, cookie in zip(*numbers, strict=True))
    texts = payloads.take(rows).to_pylist()
    return {one.base | cookie: text for (one, cookie), text in zip(requests, texts, strict=True) if one is not None}


def _to_arrow(pa: Any, column: Array) -> Any:  # Any: pyarrow tells no types  # noqa: ANN401
    if column.dtype.kind == "V":
        return pa.Array.from_buffers(pa.binary(column.dtype.itemsize), len(column), [None, pa.py_buffer(column)])
    return pa.array(column)


def _from_arrow(column: Any, kind: np.dtype[Any]) -> Array:  # Any: as above  # noqa: ANN401
    """Raises ValueError where the file has another type."""
    (array,) = column.chunks if column.num_chunks == 1 else (column.combine_chunks(),)
    if array.null_count:
        raise ValueError("a column has gaps")
    if kind.kind == "V":
        if getattr(array.type, "byte_width", 0) != kind.itemsize:
            raise ValueError(f"a column of {kind.itemsize} bytes is of type {array.type}")
        return np.frombuffer(array.buffers()[1], kind, len(array), array.offset * kind.itemsize)
    found: Array = array.to_numpy(zero_copy_only=False)
    if found.dtype != kind:
        raise ValueError(f"a column of type {kind} is of type {array.type}")
    return found
