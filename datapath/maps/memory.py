"""A map in memory with a kernel map's behaviour: size limit, key sizes, longest prefixes, giving up old entries."""

from collections.abc import Iterator, Sequence

from datapath.errors import NoRoom, Unavailable
from datapath.maps.spec import MapKind, MapSpec


class MemoryMap:
    """Keys and values are bytes, as in the kernel; the methods are those of a kernel map.

    A map of kind LRU_HASH gives up the entry that was written the longest ago.
    """

    def __init__(self, spec: MapSpec) -> None:
        self.spec = spec
        self._rows: dict[bytes, tuple[bytes, bytes]] = {}  # what identifies a key → the key as written, the value
        self._trie = spec.kind is MapKind.LPM_TRIE
        self._lru = spec.kind is MapKind.LRU_HASH

    def __len__(self) -> int:
        return len(self._rows)

    def lookup(self, key: bytes) -> bytes | None:
        """The value that the kernel would find: in a trie, that of the longest prefix of `key`."""
        self._check(key)
        if not self._trie:
            return self._value(key)
        return next((value for prefix in _prefixes(key) if (value := self._value(prefix)) is not None), None)

    def lookup_exact(self, key: bytes) -> bytes | None:
        """The value of this very key, in a trie that of this very prefix."""
        self._check(key)
        return self._value(_masked(key) if self._trie else key)

    def dump(self) -> dict[bytes, bytes]:
        """Every row, under its key as it was written last."""
        return dict(self._rows.values())

    def batches(self) -> Iterator[tuple[bytes, bytes, int]]:
        """All entries as (keys, values, count), the keys and the values each joined."""
        keys, values = zip(*self._rows.values(), strict=True) if self._rows else ((), ())
        yield b"".join(keys), b"".join(values), len(keys)

    def update_batch(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Every key has its value; written in order.

        Raises NoRoom when the map is full, with all before the one that did not fit written.
        """
        for key, value in zip(keys, values, strict=True):
            self._check(key, value)
        for key, value in zip(keys, values, strict=True):
            stored = self._stored(key)
            if self._lru:
                self._rows.pop(stored, None)  # it is the newest from now on
            if stored not in self._rows and len(self._rows) >= self.spec.max_entries:
                if not self._lru:
                    raise NoRoom(f"map {self.spec.name} is full: all {self.spec.max_entries} entries are taken")
                del self._rows[next(iter(self._rows))]
            self._rows[stored] = (key, value)

    def update_joined(self, keys: bytes, values: bytes) -> None:
        """As `update_batch`, of keys and values that are joined already."""
        self.update_batch(_pieces(keys, self.spec.key_size), _pieces(values, self.spec.value_size))

    def delete_batch(self, keys: Sequence[bytes]) -> int:
        """None of the keys is there. Returns how many were."""
        for key in keys:
            self._check(key)
        before = len(self._rows)
        for key in keys:
            self._rows.pop(self._stored(key), None)
        return before - len(self._rows)

    def delete_joined(self, keys: bytes) -> int:
        """As `delete_batch`, of keys that are joined already."""
        return self.delete_batch(_pieces(keys, self.spec.key_size))

    def _value(self, stored: bytes) -> bytes | None:
        row = self._rows.get(stored)
        return None if row is None else row[1]

    def _stored(self, key: bytes) -> bytes:
        if not self._trie:
            return key
        bits = int.from_bytes(key[:4], "little")
        if bits > (len(key) - 4) * 8:
            raise Unavailable(f"map {self.spec.name}: a prefix of {bits} bits is longer than its key")
        return _masked(key)

    def _check(self, key: bytes, value: bytes | None = None) -> None:
        spec = self.spec
        if len(key) != spec.key_size or (value is not None and len(value) != spec.value_size):
            raise ValueError(f"{spec.name} takes keys of {spec.key_size} and values of {spec.value_size} bytes")


def _pieces(joined: bytes, size: int) -> list[bytes]:
    return [joined[at : at + size] for at in range(0, len(joined), size)]


def _prefixes(key: bytes) -> Iterator[bytes]:
    """The key shortened bit by bit, longest first; none when it says that it is longer than it is."""
    bits = int.from_bytes(key[:4], "little")
    if bits <= (len(key) - 4) * 8:
        yield from (_masked(shorter.to_bytes(4, "little") + key[4:]) for shorter in range(bits, -1, -1))


def _masked(key: bytes) -> bytes:
    """The key with zeros behind its prefix, as the kernel compares it."""
    unmatched = (len(key) - 4) * 8 - int.from_bytes(key[:4], "little")
    if unmatched <= 0:
        return key
    data = int.from_bytes(key[4:], "big") >> unmatched << unmatched
    return key[:4] + data.to_bytes(len(key) - 4, "big")
