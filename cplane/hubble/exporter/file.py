"""A file that lines are appended to, whole or not at all, and that is put aside when it is large."""

import gzip
import os
import re
import shutil
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cplane.hubble.exporter.mark import Place

_STAMP: Final = "%Y-%m-%dT%H-%M-%S"
_STAMPED: Final = r"-\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}\.\d{3}(-\d+)?"
_MODE: Final = 0o600
_GZ: Final = ".gz"
_PART: Final = ".part"  # after the name of what is not packed as a whole yet


class RotatedFile:
    """Appends to `path`, which at `max_bytes` (0: never) gets a name with its time, `a-2024-07-24T10-02-11.000.log`.

    Of those the newest `backups` are kept (0: all), packed where `compress` says so. What is no regular file, such as
    /dev/stdout, is written to and never put aside. Every method may block, and belongs to one thread at a time.
    """

    def __init__(self, path: str, *, max_bytes: int, backups: int, compress: bool, now_ns: Callable[[], int]) -> None:
        self.path = Path(path)
        self._max, self._backups, self._compress, self._now_ns = max_bytes, backups, compress, now_ns
        self._fd: int | None = None
        self._size = 0
        self._regular = True
        self._tidied = False

    def write(self, lines: bytes) -> None:
        """The lines are at the end of the file. Raises OSError, and then none of them is."""
        self.prepare(len(lines))
        self.append(lines)

    def prepare(self, size: int) -> Place | None:
        """Where the next `size` bytes will be appended; None: in what is no regular file. Raises OSError."""
        if self._fd is not None and self._was_moved():
            self.close()
        if self._fd is None:
            self._open()
        if self._regular and self._max and self._size and self._size + size > self._max:
            self._put_aside()
        assert self._fd is not None
        found = os.fstat(self._fd)
        return Place(found.st_dev, found.st_ino, self._size) if self._regular else None

    def append(self, lines: bytes) -> None:
        """The lines are where `prepare` said. Raises OSError, and then none of them is."""
        assert self._fd is not None, "nothing is prepared"
        left = memoryview(lines)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            if self._regular:
                os.ftruncate(self._fd, self._size)  # no torn line: making a file smaller needs no room
            raise
        self._size += len(lines)

    def close(self) -> None:
        """Nothing is held. Idempotent; a later `write` opens the file again."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._tidied:
            self._tidied = True
            self._finish_packing()
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
        found = os.fstat(fd)
        self._fd, self._size, self._regular = fd, found.st_size, stat.S_ISREG(found.st_mode)

    def _was_moved(self) -> bool:
        """Whether somebody else put the file aside, or removed it."""
        assert self._fd is not None
        if not self._regular:
            return False
        ours = os.fstat(self._fd)
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return True
        return (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino)

    def _put_aside(self) -> None:
        self.close()
        now_ns = self._now_ns()
        stamp = f"{datetime.fromtimestamp(now_ns // 10**9, UTC):{_STAMP}}.{now_ns // 10**6 % 1000:03d}"
        numbers = [number for other, number in map(_age, self.put_aside()) if other == stamp]
        aside = self._aside(f"{stamp}-{max(numbers) + 1}" if numbers else stamp)
        self.path.rename(aside)
        self._open()
        if self._compress:
            _pack(aside)
        if self._backups:
            for old in sorted(self.put_aside(), key=_age)[: -self._backups]:
                old.unlink(missing_ok=True)

    def _aside(self, stamp: str) -> Path:
        return self.path.with_name(f"{self.path.stem}-{stamp}{self.path.suffix}")

    def _finish_packing(self) -> None:
        """What a process that was killed had begun to pack is there once."""
        for aside in self.put_aside():
            if aside.suffix == _GZ:
                aside.with_suffix("").unlink(missing_ok=True)
            elif _begun(aside).exists():
                _pack(aside)

    def put_aside(self) -> list[Path]:
        """The files that were put aside and are there."""
        name = re.compile(re.escape(self.path.stem) + _STAMPED + re.escape(self.path.suffix) + r"(\.gz)?")
        return [one for one in self.path.parent.iterdir() if name.fullmatch(one.name)]


def _packed(path: Path) -> Path:
    return path.with_name(f"{path.name}{_GZ}")


def _begun(path: Path) -> Path:
    return path.with_name(f"{path.name}{_GZ}{_PART}")


def _pack(path: Path) -> None:
    """The file is packed; where that fails it stays as it is."""
    begun = _begun(path)
    try:
        with path.open("rb") as source, gzip.open(begun, "wb", compresslevel=6) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        begun.chmod(_MODE)
        begun.rename(_packed(path))
    except OSError:
        begun.unlink(missing_ok=True)
        return
    path.unlink()


def _age(path: Path) -> tuple[str, int]:
    """Sorts files that were put aside by time; those of the same millisecond by their number."""
    match = re.search(_STAMPED, path.name)
    assert match is not None, path
    number = match[1]
    stamp = match[0].removeprefix("-")
    return stamp.removesuffix(number or ""), int(number[1:]) if number else 0
