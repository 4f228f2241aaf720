"""Ledgers of a log at every so many events, so that no question folds more than that.

A snapshot carries the digest of the log at its position, and is used only where the log has that digest there: what the
log says is the truth, and a snapshot of anything else is thrown away.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import blake2b
from typing import Final

import zstandard

from cplane.eventlog.beside import open_beside, throw_away
from cplane.eventlog.sqlite import is_damage
from cplane.timetravel.ledger import Ledger

EVERY: Final = 20_000  # events; 50 ms to fold, and a snapshot of a node with a hundred pods takes 9 kB
_LEVEL: Final = 3  # a higher one takes ten times as long and saves a tenth
_POSITION_MAX: Final = (1 << 63) - 1
_LEDGER_BYTES_MAX: Final = 1 << 30  # that a damaged frame may claim

DigestAt = Callable[[int], bytes | None]
"""The digest of the log at a position; None where it has none."""


class Snapshots:
    """The snapshots of one log. None of its methods fails: what cannot be read is not there, and not kept."""

    def __init__(self, place: str, digest_at: DigestAt) -> None:
        self._place, self._digest_at = place, digest_at
        self._file = open_beside(place)

    def close(self) -> None:
        """Nothing can be asked any more."""
        if self._file is not None:
            self._file.close()

    def newest(self, position: int) -> Ledger | None:
        """The newest at or before the position that fits the log."""
        for at, log_digest, data, digest in self._read(position):
            if self._digest_at(at) != log_digest or _digest_of(at, log_digest, data) != digest:
                self.drop(at)
                continue
            found = _unpacked(data)
            if found is not None and found.position == at:
                return found
            self.drop(at)
        return None

    def all(self) -> Iterator[tuple[int, Ledger | None]]:
        """Every snapshot in order, with None for one that does not fit the log."""
        for at, log_digest, data, digest in reversed(list(self._read(_POSITION_MAX))):
            fits = self._digest_at(at) == log_digest and _digest_of(at, log_digest, data) == digest
            yield at, _unpacked(data) if fits else None

    def put(self, ledger: Ledger) -> None:
        """The ledger is found from now on, if there is room for it."""
        log_digest = self._digest_at(ledger.position)
        if self._file is None or log_digest is None:
            return
        data = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(ledger.dump())
        row = (ledger.position, log_digest, data, _digest_of(ledger.position, log_digest, data))
        try:
            self._file.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            self._without(error)

    def has(self, position: int) -> bool:
        """Whether there is one of exactly that position; true where none can be kept."""
        if self._file is None:
            return True
        try:
            found = self._file.execute("SELECT 1 FROM snapshots WHERE position = ?", (position,)).fetchone()
        except sqlite3.Error as error:
            self._without(error)
            return True
        return found is not None

    def drop(self, position: int) -> None:
        """There is none of that position."""
        if self._file is not None:
            with suppress(sqlite3.Error):  # it stays, and is refused again the next time
                self._file.execute("DELETE FROM snapshots WHERE position = ?", (position,))

    def _read(self, position: int) -> Iterator[tuple[int, bytes, bytes, bytes]]:
        statement = "SELECT * FROM snapshots WHERE position <= ? ORDER BY position DESC LIMIT 1"
        while self._file is not None:
            try:
                row = self._file.execute(statement, (position,)).fetchone()
            except sqlite3.Error as error:
                self._without(error)
                return
            if row is None:
                return
            yield row
            position = row[0] - 1

    def _without(self, error: sqlite3.Error) -> None:
        """From now on there are none; a damaged file is not there for the next who asks either."""
        assert self._file is not None, "a file that is not open cannot fail"
        self._file.close()
        self._file = None
        if is_damage(error):
            throw_away(self._place)


def _digest_of(position: int, log_digest: bytes, data: bytes) -> bytes:
    return blake2b(position.to_bytes(8, "big", signed=True) + log_digest + data, digest_size=32).digest()


def _unpacked(data: bytes) -> Ledger | None:
    try:
        return Ledger.load(zstandard.ZstdDecompressor().decompress(data, max_output_size=_LEDGER_BYTES_MAX))
    except (zstandard.ZstdError, ValueError):
        return None
