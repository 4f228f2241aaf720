"""How far an export is, on disk, so that the next process goes on there: no flow twice, and none left out.

Before lines are appended to a file the mark says where they will be and which position is reached with them, and
afterwards that it is reached. So whoever comes after a kill between the two sees at the file's size whether the lines
are there, and cuts off a part of them. All of it is one write of few bytes into a page of a file, which a kill does not
tear; nothing is synced, because after a crash of the machine the flow ring begins anew in any case.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

from cplane.telemetry.log import line, logger

log = logger("exporter")

MAGIC: Final = b"cplexmk1"
SUFFIX: Final = ".mark"
_RECORD: Final = struct.Struct("<8s16s8QI")  # magic, ring, two steps, place, length, CRC-32 of these
_CHECKED: Final = _RECORD.size - 4
_NAME_MAX: Final = 40  # characters of an export's name that are seen in that of its mark


class Step(NamedTuple):
    """All flows before `position` have been dealt with, and so have `told` of the losses just before it."""

    position: int
    told: int = 0


class Place(NamedTuple):
    """Where lines are appended: a regular file, and its size before."""

    device: int
    inode: int
    size: int


NOWHERE: Final = Place(0, 0, 0)


class Mark:
    """The mark of one export of one ring. Every method may block, and belongs to one thread at a time.

    `reached` None: there is no mark yet. Where the disk refuses it, the export goes on without, with a line in the log.
    """

    def __init__(self, path: Path | None, seed: str) -> None:
        self._path, self._ring = path, bytes.fromhex(seed)
        self._fd = -1
        self._failed = path is None
        self.reached: Step | None = None
        self.is_of_ring = True  # and not of one that was there before

    @classmethod
    def open(cls, folder: str, name: str, seed: str, target: str) -> "Mark":
        """The mark of the export of that name, which writes to `target`; kept nowhere when `folder` is empty.

        What an earlier process had begun to append is there as a whole afterwards, or not at all.
        """
        made = cls(Path(folder) / mark_name(name) if folder else None, seed)
        if made._path is not None:
            try:
                made._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                made._fd = os.open(made._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                made._read(target)
            except OSError as error:
                made._refused(error)
        return made

    def _read(self, target: str) -> None:
        """What is said there; nothing, if it is damaged. Raises OSError."""
        found = os.pread(self._fd, _RECORD.size, 0)
        if len(found) < _RECORD.size or zlib.crc32(found[:_CHECKED]) != int.from_bytes(found[_CHECKED:], "little"):
            return
        magic, ring, *numbers, _ = _RECORD.unpack(found)
        if magic != MAGIC:
            return
        self.is_of_ring = ring == self._ring
        before, after, place, length = Step(*numbers[:2]), Step(*numbers[2:4]), Place(*numbers[4:7]), numbers[7]
        self.reached = after if length and _is_there(target, place, length) else before

    def begin(self, after: Step, place: Place, length: int) -> None:
        """That many bytes are about to be appended there, and then `after` is reached."""
        if self.reached is not None:
            self._write(self.reached, after, place, length)

    def done(self, after: Step) -> None:
        """`after` is reached."""
        self.reached, self.is_of_ring = after, True
        self._write(after, after, NOWHERE, 0)

    def close(self) -> None:
        """Nothing is held. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, before: Step, after: Step, place: Place, length: int) -> None:
        if self._fd < 0:
            return
        content = _RECORD.pack(MAGIC, self._ring, *before, *after, *place, length, 0)[:_CHECKED]
        try:
            os.pwrite(self._fd, content + zlib.crc32(content).to_bytes(4, "little"), 0)
        except OSError as error:
            self._refused(error)

    def _refused(self, error: OSError) -> None:
        """Said once."""
        if not self._failed:
            self._failed = True
            detail = "after a restart the export may begin elsewhere than where it stopped"
            log.error(line("export", kind="mark", path=str(self._path), error=str(error), detail=detail))


def mark_name(export: str) -> str:
    """The name of an export's mark, which differs for all names."""
    seen = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in export[:_NAME_MAX])
    return f"{seen}-{hashlib.blake2b(export.encode(), digest_size=8).hexdigest()}{SUFFIX}"


def forget_others(folder: str, names: Collection[str]) -> None:
    """No mark is left but those of the exports of these names; what the disk refuses is logged."""
    kept = {mark_name(name) for name in names}
    try:
        for path in list(Path(folder).iterdir()):
            if path.suffix == SUFFIX and path.name not in kept:
                path.unlink(missing_ok=True)
    except FileNotFoundError:
        pass  # there are none
    except OSError as error:
        log.warning(line("export", kind="mark", path=folder, error=str(error), detail="marks of old exports stay"))


def _is_there(target: str, place: Place, length: int) -> bool:
    """Whether what was to be appended has been; a part of it is cut off. Raises OSError.

    Where the file is another one by now nobody knows, so it has not.
    """
    try:
        found = os.stat(target)
    except FileNotFoundError:
        return False
    if (found.st_dev, found.st_ino) != (place.device, place.inode):
        return False
    if place.size < found.st_size < place.size + length:
        os.truncate(target, place.size)
        return False
    return found.st_size >= place.size + length
