"""A BPF map as a table of typed entries."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from datapath.maps.spec import MapSpec
from datapath.maps.spread import Spread


class Packed(Protocol):
    """A key or a value that knows its bytes; `unpack` is the inverse, a class method."""

    def pack(self) -> bytes:
        """The bytes in the map."""
        ...


K = TypeVar("K", bound=Packed)
V = TypeVar("V", bound=Packed)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_PACKED_MAX: Final = 4096  # rows whose bytes are held at a time: a policy map may have a million


class Unpacks(Protocol[T_co]):
    """The class of a key or value."""

    def unpack(self, data: bytes) -> T_co:
        """The inverse of `pack`."""
        ...


@runtime_checkable
class PacksAll(Protocol):
    """The class of keys or values that are packed faster together."""

    def pack_all(self, rows: Sequence[Packed]) -> bytes:
        """The bytes of all, joined."""
        ...


Joined = tuple[bytes, bytes, int]  # the keys and the values of so many rows
_Rows = npt.NDArray[np.bytes_]


class ByteMap(Protocol):
    """A map of bytes, in the kernel or in memory."""

    @property
    def spec(self) -> MapSpec:
        """Its shape."""
        ...

    def batches(self) -> Iterator[Joined]:
        """All entries, some at a time."""
        ...

    def dump(self) -> dict[bytes, bytes]:
        """All entries."""
        ...

    def update_batch(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Every key has its value; written in order."""
        ...

    def update_joined(self, keys: bytes, values: bytes) -> None:
        """As `update_batch`, of keys and values that are joined already."""
        ...

    def delete_batch(self, keys: Sequence[bytes]) -> int:
        """None of the keys is there; deleted in order."""
        ...

    def delete_joined(self, keys: bytes) -> int:
        """As `delete_batch`, of keys that are joined already."""
        ...


class MapTarget(Generic[K, V]):
    """One map, dumped and written in batches. Every method raises Unavailable when the kernel refuses."""

    def __init__(self, over: ByteMap, key: Unpacks[K], value: Unpacks[V]) -> None:
        self._map, self._key, self._value = over, key, value

    def dump(self) -> dict[K, V]:
        """What is there now. Rows of equal value share one, as there are many rows and few values."""
        packed = self._map.dump()
        values: dict[bytes, V] = {}
        entries: dict[K, V] = {}
        while packed:  # so that the bytes of a row go when the row comes
            key, data = packed.popitem()
            value = values.get(data)
            if value is None:
                value = values[data] = self._value.unpack(data)
            entries[self._key.unpack(key)] = value
        return entries

    def compare(self, desired: Mapping[K, V]) -> tuple[dict[K, V], dict[K, V]]:
        """The rows that are there and should not be so, and those that should be there and are not.

        Bytes are compared, as they seldom differ and may be those of a million rows.
        """
        wanted, held = self._rows(self._packed(desired)), self._rows(self._map.batches())
        if np.array_equal(wanted, held):
            return {}, {}
        gone = np.setdiff1d(held, wanted, assume_unique=True)
        come = np.setdiff1d(wanted, held, assume_unique=True)
        return self._unpacked(gone), self._unpacked(come)

    def upsert(self, entries: Mapping[K, V]) -> None:
        """Every entry is there when this returns; written in the order of `entries`. Idempotent.

        Raises MapFull with the entries before the first that did not fit written.
        """
        for keys, values, _ in self._packed(entries):
            self._map.update_joined(keys, values)

    def delete(self, keys: Collection[K]) -> None:
        """None of the keys is there when this returns; deleted in the order of `keys`. Idempotent."""
        if isinstance(keys, Spread):
            for joined, _, _ in keys.packed(_PACKED_MAX):
                self._map.delete_joined(joined)
            return
        for some in _sliced(keys):
            self._map.delete_batch([key.pack() for key in some])

    def _packed(self, entries: Mapping[K, V]) -> Iterator[Joined]:
        if isinstance(entries, Spread):
            yield from entries.packed(_PACKED_MAX)
            return
        for some in _sliced(entries.items()):
            yield (
                _joined(self._key, [key for key, _ in some]),
                _joined(self._value, [value for _, value in some]),
                len(some),
            )

    def _rows(self, pieces: Iterable[Joined]) -> _Rows:
        """The bytes of each row, sorted."""
        widths = self._map.spec.key_size, self._map.spec.value_size
        parts = [np.empty((0, sum(widths)), np.uint8)]
        for *sides, count in pieces:
            shaped = [
                np.frombuffer(one, np.uint8).reshape(count, width) for one, width in zip(sides, widths, strict=True)
            ]
            parts.append(np.concatenate(shaped, axis=1))
        joined = np.concatenate(parts)
        return np.sort(joined.view(f"S{joined.shape[1]}").reshape(-1))

    def _unpacked(self, rows: _Rows) -> dict[K, V]:
        size, found = self._map.spec.key_size, {}
        for row in rows.tolist():
            whole = row.ljust(rows.itemsize, b"\0")  # numpy takes zeros at the end of a text for its padding
            found[self._key.unpack(whole[:size])] = self._value.unpack(whole[size:])
        return found


def _joined(kind: Unpacks[object], rows: Sequence[Packed]) -> bytes:
    """The bytes of keys or values of one class."""
    if isinstance(kind, PacksAll):
        return kind.pack_all(rows)
    different = {id(row): row for row in rows}  # many rows share one
    packed = {number: row.pack() for number, row in different.items()}
    return b"".join([packed[id(row)] for row in rows])


def _sliced(entries: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(entries)
    while some := list(islice(rest, _PACKED_MAX)):
        yield some
