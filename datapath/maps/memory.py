"""A map in memory with a kernel map's behaviour: size limit, key sizes, longest-prefix matching."""

from collections.abc import Iterator, Sequence

from datapath.errors import Unavailable
from datapath.maps.spec import MapKind, MapSpec


class MemoryMap:
    """Keys and values are bytes, as in the kernel; the methods are those of a kernel map."""

    def __init__(self, spec: MapSpec) -> None:
        self.spec = spec
        self._rows: dict[bytes, bytes] = {}
        self._trie = spec.kind is MapKind.LPM_TRIE

    def __len__(self) -> int:
        return len(self._rows)

    def lookup(self, key: bytes) -> bytes | None:
        """The value that the kernel would find: in a trie, that of the longest prefix of `key`."""
        self._check(key)
        if not self._trie:
            return self._rows.get(key)
        return next((row for prefix in _prefixes(key) if (row := self._rows.get(prefix)) is not None), None)

    def lookup_exact(self, key: bytes) -> bytes | None:
        """The value of this very key, in a trie that of this very prefix."""
        self._check(key)
        return self._rows.get(_masked(key) if self._trie else key)

    def dump(self) -> dict[bytes, bytes]:
        """Every row."""
        return dict(self._rows)

    def update_batch(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Every key has its value; written in order.

        Raises Unavailable when the map is full, with all before the one that did not fit written.
        """
        for key, value in zip(keys, values, strict=True):
            self._check(key, value)
            stored = _masked(key) if self._trie else key
            if stored not in self._rows and len(self._rows) >= self.spec.max_entries:
                raise Unavailable(f"map {self.spec.name} is full: all {self.spec.max_entries} entries are taken")
            self._rows[stored] = value

    def delete_batch(self, keys: Sequence[bytes]) -> int:
        """None of the keys is there. Returns how many were."""
        before = len(self._rows)
        for key in keys:
            self._check(key)
            self._rows.pop(_masked(key) if self._trie else key, None)
        return before - len(self._rows)

    def _check(self, key: bytes, value: bytes | None = None) -> None:
        spec = self.spec
        if len(key) != spec.key_size or (value is not None and len(value) != spec.value_size):
            raise ValueError(f"{spec.name} takes keys of {spec.key_size} and values of {spec.value_size} bytes")


def _prefixes(key: bytes) -> Iterator[bytes]:
    """The key shortened bit by bit, longest first."""
    for bits in range(int.from_bytes(key[:4], "little"), -1, -1):
        yield _masked(bits.to_bytes(4, "little") + key[4:])


def _masked(key: bytes) -> bytes:
    """The key with zeros behind its prefix, as the kernel compares it."""
    unmatched = (len(key) - 4) * 8 - int.from_bytes(key[:4], "little")
    if unmatched <= 0:
        return key
    data = int.from_bytes(key[4:], "big") >> unmatched << unmatched
    return key[:4] + data.to_bytes(len(key) - 4, "big")
