"""The folder of segments: what there is, what must go, and what could not be written."""

import fcntl
import importlib.util
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from anyio import CancelScope, CapacityLimiter, to_thread

from cplane.errors import Rejected, Unavailable
from cplane.hubble.archive.segment import PARTIAL, Chapter, Draft, Segment, Unreadable, read, write
from cplane.telemetry.log import line, logger

log = logger("hubble")

_LOCK: Final = ".lock"
_READERS: Final = 2  # segments that are read at a time: each takes 7 MB while it is
_HOUR_NS: Final = 3600 * 1_000_000_000


class NoParquet(Rejected):
    """An archive is wanted and pyarrow is not installed."""

    code = "hubble.no_parquet"

    def __str__(self) -> str:
        return "hubble.archive_path: it needs pyarrow, which is not installed; install cplane[archive]"


def has_parquet() -> bool:
    """Whether segments can be read and written."""
    return importlib.util.find_spec("pyarrow") is not None


class ArchiveUnavailable(Unavailable):
    """The folder cannot be used."""

    code = "hubble.archive_unavailable"

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"hubble.archive_path: {self.path}: {self.reason}"


class Archive:
    """Segments in one folder, oldest first, never more than `bytes_max` nor older than `age_ns` (0: any age).

    Made by `open_archive`. All that waits for disks is done in worker threads.
    """

    def __init__(self, folder: Path, lock: int, segments: list[Segment], *, bytes_max: int, age_ns: int) -> None:
        self._folder, self._lock = folder, lock
        self._bytes_max, self._age_ns = bytes_max, age_ns
        self._segments = tuple(segments)
        self._limiter = CapacityLimiter(_READERS)
        self.failures = 0  # segments that could not be written, each time it was tried
        self.missed = 0  # flows that were overwritten before they could be
        self.unreadable = 0  # segments that could not be read

    @property
    def segments(self) -> Sequence[Segment]:
        """Those that are there, by position."""
        return self._segments

    @property
    def stop(self) -> int:
        """The position behind the newest flow; 0 when there is none."""
        return self._segments[-1].stop if self._segments else 0

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self._segments)

    async def write(self, draft: Draft) -> None:
        """The flows are on disk, also when the caller is cancelled. Raises OSError."""
        assert draft.start >= self.stop, (draft.start, self.stop)
        with CancelScope(shield=True):
            segment = await to_thread.run_sync(write, draft, self._folder)
        self._segments = (*self._segments, segment)

    async def expire(self, now_ns: int) -> None:
        """What is too much or too old is gone; a file that cannot be removed is tried again the next time."""
        size = self.size
        for segment in self._segments:
            if size <= self._bytes_max and not (self._age_ns and segment.last_ns < now_ns - self._age_ns):
                break
            try:
                await to_thread.run_sync(partial(segment.path.unlink, missing_ok=True))
            except OSError as error:
                log.warning(line("segment not removed", path=str(segment.path), error=_words(error)))
                break
            size -= segment.size
            self._forget(segment)

    def _forget(self, segment: Segment) -> None:
        self._segments = tuple(one for one in self._segments if one != segment)

    async def chapter(self, segment: Segment) -> Chapter | None:
        """The segment, read in a thread; None when it cannot be read, and then nobody is offered it again."""
        try:
            return await to_thread.run_sync(read, segment, limiter=self._limiter)
        except Unreadable as error:
            if segment in self._segments and segment.path.exists():  # else it has expired meanwhile
                self.unreadable += 1
                log.warning(line("segment not readable", path=str(segment.path), error=str(error)))
            self._forget(segment)
            return None

    def close(self) -> None:
        """The folder is anybody's. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def open_archive(path: str, *, max_mb: int, max_hours: int) -> Archive:
    """The archive in that folder, which is made when need be. Raises NoParquet, ArchiveUnavailable."""
    if not has_parquet():
        raise NoParquet
    folder = Path(path)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ArchiveUnavailable(path, _words(error)) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for unfinished in folder.glob(f"flows-*{PARTIAL}"):
            unfinished.unlink()
        segments = segments_in(folder)
    except OSError as error:
        os.close(lock)
        busy = isinstance(error, BlockingIOError)
        raise ArchiveUnavailable(
            path, "in use by another agent; give each agent a folder of its own" if busy else _words(error)
        ) from error
    return Archive(folder, lock, segments, bytes_max=max_mb << 20, age_ns=max_hours * _HOUR_NS)


def segments_in(folder: Path) -> list[Segment]:
    """The segments that follow one another; one that repeats positions of another is left out. Raises OSError."""
    found = [Segment.of(Path(entry.path), entry.stat().st_size) for entry in os.scandir(folder) if entry.is_file()]
    segments: list[Segment] = []
    for segment in sorted((one for one in found if one is not None), key=lambda one: (one.start, one.stop)):
        if segments and segment.start < segments[-1].stop:
            log.warning(line("segment left out", path=str(segment.path), error="another one has its positions"))
        else:
            segments.append(segment)
    return segments


def _words(error: OSError) -> str:
    return error.strerror or str(error)
