"""Makes a log of what was exported: the same positions, digests and chain, or no log at all."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import msgspec
import zstandard

from cplane.eventlog import durable
from cplane.eventlog.archive import beginning_name, folder_of
from cplane.eventlog.beginning import Beginning, beginning_bytes
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import DIGEST_BYTES, EVENT_BYTES_MAX, Row, StoredRow, decode
from cplane.eventlog.errors import BadEvent, BadExport, LogExists, StorageFailed
from cplane.eventlog.schema import INSERT
from cplane.eventlog.sqlite import driver, open_writer, translated
from cplane.timetravel.exported import FORMAT, Exported, Header, Trailer, header_digest
from cplane.timetravel.ledger import Ledger

T = TypeVar("T")

_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_LINE_MAX: Final = 8 * EVENT_BYTES_MAX  # of a header with a state, too
_ROWS: Final = 10_000  # in one transaction
_JOURNALS: Final = ("", "-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Imported:
    """The log that was made: how many events, up to which position and digest, and what is behind its beginning."""

    events: int
    last: int
    digest: bytes
    start: int


def import_log(source: BinaryIO, path: str) -> Imported:
    """The new file at `path` has the log that `source` gives, which may be compressed with zstd.

    Raises LogExists, BadExport, which names the line, and StorageFailed: nothing was left behind then.
    """
    unfinished = path + durable.UNFINISHED
    if os.path.lexists(path) or os.path.lexists(folder_of(path)):
        raise LogExists(path)
    with ExitStack() as stack:
        stack.callback(_remove, unfinished)
        _remove(unfinished)
        lines = _Lines(source)
        header, chain = _begun(lines)
        start = chain.position
        with translated(path):
            _fill(unfinished, lines, chain)
        trailer = _decoded(lines, lines.last, Trailer)
        if (trailer.events, trailer.last, trailer.digest) != (
            chain.position - start,
            chain.position,
            chain.digest.hex(),
        ):
            raise BadExport(lines.number, chain.position, "the events before it are not those that it counts")
        if trailer.header != header_digest(lines.first):
            raise BadExport(1, 0, "the line was changed, or its digest in the last line")
        _put(path, unfinished, header, start)
        return Imported(chain.position - start, chain.position, chain.digest, start)


class _Lines:
    """The lines of the text, which are counted; the last one is kept apart."""

    def __init__(self, source: BinaryIO) -> None:
        first = source.read(len(_ZSTD))
        text: Iterator[bytes] = _raw(first, source)
        if first == _ZSTD:
            text = _unpacked(text)
        self._lines = _split(text)
        self.number = 0
        self.first = self.last = b""

    def next(self) -> bytes | None:
        """The next one; None: there is none. Raises BadExport."""
        try:
            found = next(self._lines, None)
        except zstandard.ZstdError as error:
            raise BadExport(self.number + 1, 0, f"it cannot be decompressed ({error})") from error
        except ValueError as error:
            raise BadExport(self.number + 1, 0, str(error)) from error
        if found is not None:
            self.number += 1
            self.last = found
            self.first = self.first or found
        return found


def _raw(first: bytes, source: BinaryIO) -> Iterator[bytes]:
    yield first
    while chunk := source.read(1 << 16):
        yield chunk


def _unpacked(packed: Iterator[bytes]) -> Iterator[bytes]:
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    for chunk in packed:
        if unpacker.eof:
            raise ValueError("something stands behind its end")
        yield unpacker.decompress(chunk)
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("it was cut, or something stands behind its end")


def _split(text: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in text:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        if len(rest) > _LINE_MAX:
            raise ValueError(f"the line has more than {_LINE_MAX} bytes")
    if rest:
        raise ValueError("the line has no end: the file was cut")


def _begun(lines: _Lines) -> tuple[Header, Chain]:
    found = lines.next()
    if found is None:
        raise BadExport(1, 0, "the file is empty")
    header = _decoded(lines, found, Header)
    if header.cplane_log != FORMAT:
        raise BadExport(
            1, 0, f"its format is {header.cplane_log}, this version knows {FORMAT}: it was written by a newer cplane"
        )
    start = header.first - 1
    if start < 0 or (start == 0) != (header.previous == bytes(DIGEST_BYTES).hex()):
        raise BadExport(
            1, 0, f"a log cannot begin with position {header.first} behind the digest {header.previous!r:.70}"
        )
    if not start:
        return header, Chain()
    try:
        ledger = Ledger.load(header.state)
    except ValueError as error:
        raise BadExport(1, start, f"the state before its first event cannot be read ({error})") from error
    if ledger.position != start:
        raise BadExport(1, start, f"the state before its first event is one of position {ledger.position}")
    return header, Chain(start, _hex(lines, header.previous), dict(ledger.versions))


def _fill(unfinished: str, lines: _Lines, chain: Chain) -> None:
    engine = open_writer(unfinished)
    try:
        with engine.connect() as connection:
            rows = _rows(lines, chain)
            while batch := list(islice(rows, _ROWS)):
                _insert(driver(connection), batch)
    finally:
        engine.dispose()


def _insert(connection: sqlite3.Connection, rows: list[Row]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(INSERT, rows)
    connection.execute("COMMIT")


def _rows(lines: _Lines, chain: Chain) -> Iterator[Row]:
    """The rows of all events, each of which was checked. The last line is the trailer then."""
    found = lines.next()
    while found is not None and not found.startswith(b'{"events":'):
        one = _decoded(lines, found, Exported)
        data = bytes(one.data)
        stored: StoredRow = (
            one.position,
            one.stream.encode(),
            one.version,
            one.type.encode(),
            one.schema,
            one.recorded_at_ns,
            one.actor.encode(),
            one.cause.encode(),
            data,
            _hex(lines, one.digest),
        )
        try:
            chain.check(stored)
            decode(stored)
        except BadEvent as error:
            raise BadExport(lines.number, error.position, error.reason) from error
        chain.follow(stored)
        yield (
            one.position,
            one.stream,
            one.version,
            one.type,
            one.schema,
            one.recorded_at_ns,
            one.actor,
            one.cause,
            data.decode(),
            stored[-1],
        )
        found = lines.next()
    if found is None:
        raise BadExport(lines.number, chain.position, "the file ends here without its last line: it was cut")
    if lines.next() is not None:
        raise BadExport(lines.number, chain.position, "something stands behind its last line")


def _put(path: str, unfinished: str, header: Header, start: int) -> None:
    """The log has its name, and what it begins with beside it."""
    try:
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        if start:
            _put_beginning(path, header, start)
        try:
            os.link(unfinished, path)  # which fails where a name is taken, and a renaming would not
        except OSError:
            _drop_beginning(path, start)
            raise
        durable.sync_folder(os.path.dirname(os.path.realpath(path)))
    except FileExistsError as error:
        raise LogExists(path) from error
    except OSError as error:
        raise StorageFailed(path, f"cannot make it: {error.strerror}") from error


def _put_beginning(path: str, header: Header, start: int) -> None:
    ledger = Ledger.load(header.state)
    digest = bytes.fromhex(header.previous)
    beginning = Beginning(start, digest, dict(ledger.versions), header.state_recorded_at_ns, header.state)
    folder = folder_of(path)
    os.mkdir(folder, 0o700)
    try:
        durable.put(os.path.join(folder, beginning_name(start)), lambda file: file.write(beginning_bytes(beginning)))
    except BaseException:
        os.rmdir(folder)
        raise


def _drop_beginning(path: str, start: int) -> None:
    if start:
        folder = folder_of(path)
        os.unlink(os.path.join(folder, beginning_name(start)))
        os.rmdir(folder)


def _remove(unfinished: str) -> None:
    for suffix in _JOURNALS:
        with suppress(FileNotFoundError):
            Path(unfinished + suffix).unlink()


_WORDS: Final[dict[object, str]] = {Header: "header", Exported: "event", Trailer: "last line"}


def _decoded(lines: _Lines, line: bytes, what: type[T]) -> T:
    try:
        return msgspec.json.decode(line, type=what)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BadExport(lines.number, 0, f"it is no {_WORDS[what]} of an export: {error}") from error


def _hex(lines: _Lines, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise BadExport(lines.number, 0, f"{text!r:.70} is no digest") from error
