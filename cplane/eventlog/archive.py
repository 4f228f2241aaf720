"""The older past of a log, in a folder beside it, `LOG.archive`: one segment after another, perhaps behind a beginning.

`FIRST-LAST.segment` has the events from FIRST to LAST (`segment`). `POSITION.beginning` is what a log that was
compacted begins with (`beginning`): all before it is gone, and segments that it replaces count no more, whether they
are still there or not. The newest event is always in the file of the log itself, so a folder that is lost or
exchanged is found: the first event there does not follow it.
"""

import os
import re
from collections.abc import Callable, Iterator
from typing import Final

from cplane.eventlog.beginning import Beginning, read_beginning
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import StoredRow
from cplane.eventlog.errors import BadEvent, StorageFailed
from cplane.eventlog.segment import Segment

SUFFIX: Final = ".archive"
_SEGMENT: Final = re.compile(r"(\d{20})-(\d{20})\.segment")
_BEGINNING: Final = re.compile(r"(\d{20})\.beginning")


def folder_of(log: str) -> str:
    """Where the older past of that log is: beside the log itself, whatever links lead there."""
    return os.path.realpath(log) + SUFFIX


def segment_name(first: int, last: int) -> str:
    """The name of the file with these events."""
    return f"{first:020d}-{last:020d}.segment"


def beginning_name(position: int) -> str:
    """The name of the file with the state at that position."""
    return f"{position:020d}.beginning"


class Archive:
    """What is in the folder, as it was at the last look: the events behind `start` up to `end`; often nothing."""

    def __init__(self, log: str) -> None:
        self.folder = folder_of(log)
        self.beginning: Beginning | None = None
        self._segments: list[Segment] = []
        self.look()

    @property
    def start(self) -> int:
        """The position that the log begins behind; 0 when nothing was dropped."""
        return 0 if self.beginning is None else self.beginning.position

    @property
    def end(self) -> int:
        """The last position that is in it; `start` when it has none."""
        return self._segments[-1].last if self._segments else self.start

    def look(self) -> None:
        """This is what is in the folder now.

        Raises StorageFailed, and BadEvent when a segment is missing or the beginning is damaged.
        """
        try:
            self._take(self._names())
        except (BadEvent, StorageFailed):
            self._take(self._names())  # files may have come and gone while their names were read

    def _take(self, names: list[str]) -> None:
        based = max((int(found[1]) for found in map(_BEGINNING.fullmatch, names) if found), default=0)
        if based != self.start:
            self.beginning = read_beginning(os.path.join(self.folder, beginning_name(based)), based)
        known = {one.path: one for one in self._segments}
        self._segments, end = [], self.start
        for name in names:
            found = _SEGMENT.fullmatch(name)
            if found is None or int(found[2]) <= self.start:
                continue
            first, last = int(found[1]), int(found[2])
            if first != end + 1 or last < first:
                raise BadEvent(min(end + 1, first), f"no segment in {self.folder} has it; the next is {name}")
            path = os.path.join(self.folder, name)
            self._segments.append(known.get(path) or Segment(path, first - 1, last))
            end = last

    def chain(self) -> Chain:
        """The log at `end`, by what was recorded there: its events are not read. Raises BadEvent, StorageFailed."""
        if self._segments:
            index = self._segments[-1].index
            return Chain(index.last, index.digest, dict(index.versions))
        return self.first_chain()

    def first_chain(self) -> Chain:
        """The log at `start`."""
        return Chain() if self.beginning is None else self.beginning.chain()

    def rows(self, after: int, to: int) -> Iterator[StoredRow]:
        """The rows behind `after` up to and with `to`, as far as it has them, in order. Raises BadEvent, StorageFailed.

        Positions that were dropped are not there; whoever asks compares with `start`.
        """
        for segment in self._segments:
            if segment.last > after and segment.after < to:
                yield from segment.rows(after, to)

    def check(self, chain: Chain, seen: Callable[[StoredRow], object]) -> None:
        """Every event is read, shown to `seen`, and behind `chain`, which follows. Raises what was found first."""
        for segment in self._segments:
            for row in segment.check(chain):
                seen(row)

    def digest_at(self, position: int) -> bytes | None:
        """The digest of the event at that position; None: it is not there. Raises BadEvent, StorageFailed."""
        if self.beginning is not None and position == self.beginning.position:
            return self.beginning.digest
        return next((row[-1] for row in self.rows(position - 1, position)), None)

    def position_at(self, instant_ns: int) -> int:
        """The last position that was recorded at or before it; 0: it has none. Raises BadEvent, StorageFailed."""
        return next((found for one in reversed(self._segments) if (found := one.position_at(instant_ns))), 0)

    def segments(self) -> tuple[Segment, ...]:
        """All of them, in order."""
        return tuple(self._segments)

    def superfluous(self) -> list[str]:
        """The files that a beginning has replaced."""
        found = []
        for name in self._names():
            segment, beginning = _SEGMENT.fullmatch(name), _BEGINNING.fullmatch(name)
            if (segment and int(segment[2]) <= self.start) or (beginning and int(beginning[1]) < self.start):
                found.append(os.path.join(self.folder, name))
        return found

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageFailed(self.folder, f"cannot read it: {error.strerror}") from error
