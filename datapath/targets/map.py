"""A BPF map as a table of typed entries."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar


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


class ByteMap(Protocol):
    """A map of bytes, in the kernel or in memory."""

    def dump(self) -> dict[bytes, bytes]:
        """All entries."""
        ...

    def update_batch(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Every key has its value; written in order."""
        ...

    def delete_batch(self, keys: Sequence[bytes]) -> int:
        """None of the keys is there; deleted in order."""
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

    def upsert(self, entries: Mapping[K, V]) -> None:
        """Every entry is there when this returns; written in the order of `entries`. Idempotent.

        Raises MapFull with the entries before the first that did not fit written.
        """
        for some in _sliced(entries.items()):
            rows = {id(value): value for _, value in some}  # many rows share one
            packed = {number: value.pack() for number, value in rows.items()}
            self._map.update_batch([key.pack() for key, _ in some], [packed[id(value)] for _, value in some])

    def delete(self, keys: Collection[K]) -> None:
        """None of the keys is there when this returns; deleted in the order of `keys`. Idempotent."""
        for some in _sliced(keys):
            self._map.delete_batch([key.pack() for key in some])


def _sliced(entries: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(entries)
    while some := list(islice(rest, _PACKED_MAX)):
        yield some
