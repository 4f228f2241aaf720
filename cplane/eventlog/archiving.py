"""Moves older events out of the file of a log, and drops those that nobody needs any more.

A segment is written, synced and read again before its events leave the file, in one transaction. Whoever is stopped in
between leaves events in both places, and the next writer finishes that (`settle`). What is dropped is replaced by the
state that it led to before any of it goes. So a kill or a full disk at any moment loses nothing.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final

from cplane.eventlog import durable, segment
from cplane.eventlog.archive import Archive, beginning_name, folder_of, segment_name
from cplane.eventlog.beginning import Beginning, beginning_bytes, read_beginning
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import StoredRow
from cplane.eventlog.errors import BadEvent, NotALog, StorageFailed
from cplane.eventlog.lock import held
from cplane.eventlog.reader import open_history
from cplane.eventlog.rows import Rows
from cplane.eventlog.schema import DELETE_UNTIL, SELECT_FIRST
from cplane.eventlog.segment import Segment
from cplane.eventlog.sqlite import driver, open_reader, open_writer, recognise, translated
from cplane.timetravel.history import History

SEGMENT: Final = 20_000  # events; the writer waits a tenth of a second while so many leave the file
KEEP_MIN: Final = 1  # the newest event stays, so that the file says where the log ends


@dataclass(frozen=True, slots=True)
class Archived:
    """How many events were moved, into how many segments, and up to which position the archive goes now."""

    events: int
    segments: int
    end: int


@dataclass(frozen=True, slots=True)
class Compacted:
    """How many events were dropped, and which position the log begins behind now, with its digest there."""

    events: int
    start: int
    digest: bytes


def archive(path: str, keep: int, *, whole: bool = False, stop: Callable[[], bool] = lambda: False) -> Archived:
    """All but the newest `keep` events of the log in the file are in its archive. The caller is the one writer.

    With `whole`, only segments of SEGMENT events are made: what is left is for another time. `stop` is asked before
    each. Raises NotALog, NewerSchema, StorageFailed, BadEvent; what was moved until then is in the archive.
    """
    moved = segments = 0
    with _both(path) as (writing, reading):
        stored = Rows(reading, path)
        settle(path, writing)
        stored.archive.look()
        last = stored.head - max(keep, KEEP_MIN)
        while (end := stored.archive.end) < last and not stop():
            count = min(SEGMENT, last - end)
            if whole and count < SEGMENT:
                break
            _put(stored, count)
            stored.archive.look()
            _delete(writing, stored.archive.end)
            moved, segments = moved + count, segments + 1
        return Archived(moved, segments, stored.archive.end)


def archive_file(path: str, keep_of: Callable[[History], int]) -> Archived:
    """As `archive`, for a log that no agent has; its file is smaller afterwards. Raises LogLocked too.

    `keep_of` says how many events stay.
    """
    with open_history(path) as history:  # which raises for what is not a log, before there is a lock beside it
        keep = keep_of(history)
    with held(path):
        done = archive(path, keep)
        shrink(path)
        return done


def compact(path: str, position: int) -> Compacted:
    """Segments that end at or before the position are gone; the log begins behind them. The caller is the one writer.

    Raises NotALog, NewerSchema, StorageFailed, BadEvent: nothing is gone then that is needed.
    """
    before = Archive(path)
    dropped = [one for one in before.segments() if one.last <= position]
    if dropped:
        _put_beginning(path, dropped[-1])
    after = Archive(path)
    _remove(after)
    beginning = after.beginning
    if beginning is None:
        return Compacted(0, 0, b"")
    return Compacted(beginning.position - before.start, beginning.position, beginning.digest)


def compact_file(path: str, position_of: Callable[[History], int]) -> Compacted:
    """As `compact`, for a log that no agent has, up to what `position_of` says. Raises LogLocked too."""
    with open_history(path) as history:
        position = position_of(history)
    with held(path):
        return compact(path, position)


def settle(path: str, writing: sqlite3.Connection) -> None:
    """No event is both in the file and in the archive any more. Raises BadEvent, StorageFailed, sqlite3.Error."""
    found = Archive(path)
    (first,) = writing.execute(SELECT_FIRST).fetchone()
    if first is None or first > found.end:
        return
    for one in found.segments():
        if one.last >= first:  # it was sound when it was made; the copy goes only if it still is
            _read_again(one)
    _delete(writing, found.end)


def shrink(path: str) -> None:
    """The file has no room for what left it, if the disk has room to write it anew. Raises StorageFailed."""
    with _both(path) as (writing, _), suppress(sqlite3.OperationalError):  # a disk that is full: it stays as it is
        writing.execute("VACUUM")
        writing.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _put(stored: Rows, count: int) -> None:
    """One more segment is there, and sound."""
    folder, chain = stored.archive.folder, stored.archive.chain()
    rows: Iterator[StoredRow] = islice(stored.between(chain.position, chain.position + count), count)
    first, last = chain.position + 1, chain.position + count
    after, digest, versions = chain.position, chain.digest, dict(chain.versions)
    _make(folder)
    durable.put(
        os.path.join(folder, segment_name(first, last)),
        lambda file: segment.write(file, rows, chain),
        lambda name: _check(Segment(name, after, last), Chain(after, digest, versions)),
    )


def _put_beginning(path: str, last: Segment) -> None:
    with open_history(path) as history:
        state, recorded_at_ns = history.ledger(last.last).dump(), history.recorded_at_ns(last.last)
    index = last.index
    beginning = Beginning(index.last, index.digest, dict(index.versions), recorded_at_ns, state)
    durable.put(
        os.path.join(folder_of(path), beginning_name(beginning.position)),
        lambda file: file.write(beginning_bytes(beginning)),
        lambda name: _same(read_beginning(name, beginning.position), beginning),
    )


def _same(found: Beginning, beginning: Beginning) -> None:
    if found != beginning:
        raise BadEvent(beginning.position, "the state that was written for it reads back as another one")


def _remove(found: Archive) -> None:
    try:
        for name in found.superfluous():
            os.unlink(name)
        if os.path.isdir(found.folder):
            durable.sync_folder(found.folder)
    except OSError as error:
        raise StorageFailed(found.folder, f"cannot remove what was dropped: {error.strerror}") from error


def _read_again(one: Segment) -> None:
    for _ in one.rows(one.after, one.last):
        pass


def _check(one: Segment, chain: Chain) -> None:
    for _ in one.check(chain):
        pass


def _delete(writing: sqlite3.Connection, until: int) -> None:
    writing.execute("BEGIN IMMEDIATE")
    try:
        writing.execute(DELETE_UNTIL, (until,))
        writing.execute("COMMIT")
    finally:
        if writing.in_transaction:
            writing.rollback()


def _make(folder: str) -> None:
    if os.path.isdir(folder):
        return
    try:
        os.mkdir(folder, 0o700)
        durable.sync_folder(os.path.dirname(folder))
    except OSError as error:
        raise StorageFailed(folder, f"cannot make it: {error.strerror}") from error


@contextmanager
def _both(path: str) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    """A connection that writes and one that reads. Raises NotALog, NewerSchema, StorageFailed."""
    if not os.path.isfile(path):
        raise NotALog(path, "there is no such file")
    reading = open_reader(path, size=1)
    try:
        with translated(path), reading.connect() as source:
            if not recognise(source, path):
                raise NotALog(path, "it is empty")
            writing = open_writer(path)
            try:
                with writing.connect() as target:
                    yield driver(target), driver(source)
            finally:
                writing.dispose()
    finally:
        reading.dispose()
