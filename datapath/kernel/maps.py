"""A BPF map over its MapSpec: bytes in, bytes out, in batches."""

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from datapath.errors import Conflict
from datapath.kernel import syscall
from datapath.kernel.pin import Pins
from datapath.kernel.syscall import Command, KernelObjectExists, KernelObjectMissing, KernelRefused
from datapath.maps.spec import MapKind, MapSpec

BATCH: Final = 16_384  # entries per system call; 1 MB for our widest map
_PERCPU: Final = frozenset({MapKind.PERCPU_HASH, MapKind.PERCPU_ARRAY})
_ARRAYS: Final = frozenset({MapKind.ARRAY, MapKind.PERCPU_ARRAY})
_HASHES: Final = frozenset({MapKind.HASH, MapKind.LRU_HASH, MapKind.PERCPU_HASH})


class ForeignMap(Conflict):
    """What is pinned under our name has another shape, so it is not our map."""

    code = "map.foreign"

    def __init__(self, path: str, expected: str, found: str) -> None:
        self.path, self.expected, self.found = path, expected, found

    def __str__(self) -> str:
        return (
            f"{self.path} is a map of another shape: expected {self.expected}, found {self.found}; it was "
            "made by another version or another program: remove "
            f"{Path(self.path).parents[1]} with all that is in it, and start again, before which nothing is enforced"
        )


def cpus() -> int:
    """How many values a per-CPU map holds for each key: the possible CPUs, not those that are on."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as stream:
        return int(stream.read().strip().replace(",", "-").rsplit("-", maxsplit=1)[-1]) + 1


class KernelMap:
    """One map in the kernel. Keys and values are the layouts' bytes; a per-CPU value is one value per CPU, joined."""

    def __init__(self, spec: MapSpec, fd: int) -> None:
        self.spec, self.fd = spec, fd
        self._value_size = spec.value_size
        if spec.kind in _PERCPU:
            self._value_size = (spec.value_size + 7 & ~7) * cpus()
        # The LPM trie's cursor is a whole key; a hash's is a bucket number, in at least four bytes.
        self._cursor_size = max(spec.key_size, 8)

    @classmethod
    def create(cls, spec: MapSpec) -> "KernelMap":
        """A new, empty, unpinned map."""
        fd = syscall.map_create(spec.kind, spec.key_size, spec.value_size, spec.max_entries, spec.flags, spec.name)
        return cls(spec, fd)

    @classmethod
    def open(cls, spec: MapSpec, pins: Pins, *, any_size: bool = False) -> "KernelMap":
        """The map pinned under the spec's name: adopted if it is there, with `any_size` also a larger or smaller one.

        Created if it is not. Raises ForeignMap, and changes nothing, when what is there has another shape.
        """
        path = pins.map(spec.name)
        try:
            return cls._adopt(spec, str(path), any_size=any_size)
        except KernelObjectMissing:
            pass
        made = cls.create(spec)
        try:
            syscall.obj_pin(made.fd, str(path))
        except KernelObjectExists:  # somebody was faster, with the same right
            made.close()
            return cls._adopt(spec, str(path), any_size=any_size)
        except BaseException:
            made.close()
            raise
        return made

    @classmethod
    def _adopt(cls, spec: MapSpec, path: str, *, any_size: bool) -> "KernelMap":
        fd = syscall.obj_get(path)
        try:
            found = syscall.map_info(fd)
        except KernelRefused:
            os.close(fd)
            raise ForeignMap(path, _shape(spec), "no map at all") from None
        if any_size:
            spec = replace(spec, max_entries=found.max_entries)
        shape = (
            found.type,
            found.key_size,
            found.value_size,
            found.max_entries,
            found.map_flags,
        )
        if shape != (spec.kind, spec.key_size, spec.value_size, spec.max_entries, spec.flags):
            os.close(fd)
            raise ForeignMap(path, _shape(spec), _describe(*shape))
        return cls(spec, fd)

    @property
    def id(self) -> int:
        """The kernel's number of this map."""
        return syscall.map_info(self.fd).id

    def close(self) -> None:
        """This process holds the map no more; pinned, it lives on."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def lookup(self, key: bytes) -> bytes | None:
        """The value, or None; in a trie, that of the longest prefix of `key`."""
        self._check(key)
        value = ctypes.create_string_buffer(self._value_size)
        try:
            syscall.map_element(Command.MAP_LOOKUP, self.fd, _buffer(key), ctypes.addressof(value), self.spec.name)
        except KernelObjectMissing:
            return None
        return value.raw

    def update(self, key: bytes, value: bytes) -> None:
        """The key has this value. Raises MapFull."""
        self._check(key, value)
        buffer = _buffer(value)
        syscall.map_element(Command.MAP_UPDATE, self.fd, _buffer(key), ctypes.addressof(buffer), self.spec.name)

    def delete(self, key: bytes) -> bool:
        """The key is not there. False if it was not before."""
        self._check(key)
        try:
            syscall.map_element(Command.MAP_DELETE, self.fd, _buffer(key), 0, self.spec.name)
        except KernelObjectMissing:
            return False
        return True

    def update_batch(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Every key has its value; written in order.

        Raises MapFull, with all before the one that did not fit written.
        """
        self.update_joined(self._joined(keys, self.spec.key_size), self._joined(values, self._value_size))

    def update_joined(self, keys: bytes, values: bytes) -> None:
        """As `update_batch`, of keys and values that are joined already."""
        size, width = self.spec.key_size, self._value_size
        count = self._count(keys)
        if len(values) != count * width:
            raise ValueError(f"{self.spec.name} takes a value of {width} bytes for each of {count} keys")
        for at in range(0, count, BATCH):
            some = min(BATCH, count - at)
            written = _buffer(keys[at * size : (at + some) * size]), _buffer(values[at * width : (at + some) * width])
            _, error = syscall.map_batch(
                Command.MAP_UPDATE_BATCH,
                self.fd,
                (0, 0),
                ctypes.addressof(written[0]),
                ctypes.addressof(written[1]),
                some,
                self.spec.name,
            )
            if error is not None:
                raise error

    def delete_batch(self, keys: Sequence[bytes]) -> int:
        """None of the keys is there; deleted in order. Returns how many were."""
        return self.delete_joined(self._joined(keys, self.spec.key_size))

    def delete_joined(self, keys: bytes) -> int:
        """As `delete_batch`, of keys that are joined already."""
        size, count = self.spec.key_size, self._count(keys)
        deleted = 0
        at = 0
        while at < count:
            some = min(BATCH, count - at)
            gone = _buffer(keys[at * size : (at + some) * size])
            done, error = syscall.map_batch(
                Command.MAP_DELETE_BATCH, self.fd, (0, 0), ctypes.addressof(gone), 0, some, self.spec.name
            )
            if error is None:
                deleted += some
                at += some
            elif isinstance(error, KernelObjectMissing):
                deleted += done
                at += done + 1  # the batch stops at a key that is not there; go on behind it
            else:
                raise error
        return deleted

    def batches(self, size: int = BATCH) -> Iterator[tuple[bytes, bytes, int]]:
        """All entries as (keys, values, count), the keys and the values each joined.

        An entry that stays during the walk comes exactly once; one that comes or goes meanwhile may or may not.
        """
        if self.spec.kind in _ARRAYS:
            yield from self._slots()
            return
        size = min(size, max(self.spec.max_entries, 1))
        cursors = [ctypes.create_string_buffer(self._cursor_size) for _ in range(2)]
        source = 0
        while True:
            keys = ctypes.create_string_buffer(size * self.spec.key_size)
            values = ctypes.create_string_buffer(size * self._value_size)
            count, error = syscall.map_batch(
                Command.MAP_LOOKUP_BATCH,
                self.fd,
                (source, ctypes.addressof(cursors[1])),
                ctypes.addressof(keys),
                ctypes.addressof(values),
                size,
                self.spec.name,
            )
            if isinstance(error, KernelRefused) and error.errno == errno.ENOSPC and self.spec.kind in _HASHES:
                size *= 2  # one bucket holds more than a batch; nothing was read
                continue
            if error is not None and not isinstance(error, KernelObjectMissing):
                raise error
            if count:
                yield keys.raw[: count * self.spec.key_size], values.raw[: count * self._value_size], count
            if error is not None:
                return
            cursors.reverse()
            source = ctypes.addressof(cursors[0])

    def dump(self) -> dict[bytes, bytes]:
        """All entries."""
        entries: dict[bytes, bytes] = {}
        step, width = self.spec.key_size, self._value_size
        for keys, values, count in self.batches():
            for index in range(count):
                entries[keys[index * step : index * step + step]] = values[index * width : index * width + width]
        return entries

    def _slots(self) -> Iterator[tuple[bytes, bytes, int]]:
        keys = [index.to_bytes(4, "little") for index in range(self.spec.max_entries)]
        values = [self.lookup(key) or b"" for key in keys]
        yield b"".join(keys), b"".join(values), len(keys)

    def _joined(self, parts: Sequence[bytes], size: int) -> bytes:
        data = b"".join(parts)
        if len(data) != size * len(parts) or any(len(part) != size for part in parts):
            raise ValueError(f"{self.spec.name} takes parts of {size} bytes")
        return data

    def _count(self, keys: bytes) -> int:
        count, rest = divmod(len(keys), self.spec.key_size)
        if rest:
            raise ValueError(f"{self.spec.name} takes keys of {self.spec.key_size} bytes")
        return count

    def _check(self, key: bytes, value: bytes | None = None) -> None:
        # The kernel reads as many bytes as the map says, from wherever they lie.
        if len(key) != self.spec.key_size or (value is not None and len(value) != self._value_size):
            given = f"{len(key)}" if value is None else f"{len(key)} and {len(value)}"
            raise ValueError(
                f"{self.spec.name} takes keys of {self.spec.key_size} and values of {self._value_size} bytes, "
                f"not {given}"
            )


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, len(data))


def _shape(spec: MapSpec) -> str:
    return _describe(spec.kind, spec.key_size, spec.value_size, spec.max_entries, spec.flags)


def _describe(kind: int, key_size: int, value_size: int, max_entries: int, flags: int) -> str:
    name = MapKind(kind).name if kind in MapKind.__members__.values() else f"kind {kind}"
    return f"{name} of {max_entries} entries, key {key_size} B, value {value_size} B, flags {flags:#x}"
