"""A BPF map as a table of typed entries."""

from collections.abc import Collection, Mapping, Sequence
from typing import Generic, Protocol, TypeVar


class Packed(Protocol):
    """A key or a value that knows its bytes; `unpack` is the inverse, a class method."""

    def pack(self) -> bytes:
        """The bytes in the map."""
        ...


K = TypeVar("K", bound=Packed)
V = TypeVar("V", bound=Packed)
T_co = TypeVar("T_co", covariant=True)


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
        """What is there now."""
        key, value = self._key.unpack, self._value.unpack
        return {key(k): value(v) for k, v in self._map.dump().items()}

    def upsert(self, entries: Mapping[K, V]) -> None:
        """Every entry is there when this returns; written in the order of `entries`. Idempotent.

        Raises MapFull with the entries before the first that did not fit written.
        """
        self._map.update_batch([key.pack() for key in entries], [value.pack() for value in entries.values()])

    def delete(self, keys: Collection[K]) -> None:
        """None of the keys is there when this returns; deleted in the order of `keys`. Idempotent."""
        self._map.delete_batch([key.pack() for key in keys])
