"""How far a log in a database was verified, and what it said there: a file of the agent's, so that a start is short.

A start reads and checks what came behind it, and what is enforced follows from both. So what is older is believed as it
was when it was verified, whatever the database says by now; `cplane log verify` reads all of it. Without the file, or
with one that does not fit the log, everything is read.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice, starmap
from typing import Final

from cplane.eventlog import durable
from cplane.eventlog.beginning import Beginning, beginning_bytes, beginning_of
from cplane.eventlog.beside import SCHEMA
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import StoredRow, decode_fact
from cplane.eventlog.errors import StorageFailed
from cplane.eventlog.gist import Gist
from cplane.timetravel.ledger import Ledger

EVERY: Final = 20_000  # events behind the last mark, upon which there is another one
_NAME: Final = f"verified.{SCHEMA}"  # of a version that folds otherwise there is another one
_ROWS: Final = 1024  # that are checked, and folded then

Rows = Callable[[int], Iterator[StoredRow]]
"""The rows of the log behind a position, in order."""


class Verified:
    """A log as far as its chain was checked: `chain` is there, and `ledger` is what it said."""

    def __init__(self, chain: Chain, ledger: Ledger) -> None:
        self.chain, self.ledger = chain, ledger
        self._recorded_at_ns = 0

    @classmethod
    def kept(cls, folder: str, digest_at: Callable[[int], bytes | None]) -> "Verified":
        """The one that was put last into the folder, if it fits the log; otherwise one at its beginning."""
        try:
            with open(os.path.join(folder, _NAME), "rb") as file:
                mark = beginning_of(file.read())
        except (OSError, ValueError):
            return cls(Chain(), Ledger())
        if digest_at(mark.position) != mark.digest:
            return cls(Chain(), Ledger())
        return cls(mark.chain(), mark.ledger())

    def go_on(self, rows: Iterable[StoredRow]) -> None:
        """It is behind these rows, which come next. Raises BadEvent, and is behind the last that was sound, or before.

        Of `chain` that holds exactly; `ledger` has only what was read together.
        """
        source = iter(rows)
        while batch := list(islice(source, _ROWS)):
            gist, versions = Gist(self.ledger.position), dict[str, int]()
            for row in batch:
                self.chain.check(row)
                self.chain.follow(row)
                versions[row[1].decode()] = row[2]
                if row[4] == 1:
                    gist.add((row[3],), (row[8],))
                else:
                    gist.keep(row[3], row[4], row[8])
            self.ledger.absorb(starmap(decode_fact, gist.rows()), gist.position, versions)
            self._recorded_at_ns = batch[-1][5]

    def put(self, folder: str) -> None:
        """The next start goes on from here. Raises StorageFailed."""
        position, digest, versions = self.chain.position, self.chain.digest, dict(self.chain.versions)
        mark = Beginning(position, digest, versions, self._recorded_at_ns, self.ledger.dump())
        with suppress(OSError):
            os.makedirs(folder, 0o700, exist_ok=True)
        durable.put(os.path.join(folder, _NAME), lambda file: file.write(beginning_bytes(mark)))


def verified(folder: str, digest_at: Callable[[int], bytes | None], rows: Rows) -> Verified:
    """The log up to the last of its rows. What is to be read by the next start is less, where it was much.

    An empty folder: nothing is kept. Raises BadEvent.
    """
    found = Verified.kept(folder, digest_at) if folder else Verified(Chain(), Ledger())
    began = found.chain.position
    found.go_on(rows(began))
    if folder and found.chain.position - began >= EVERY:
        with suppress(StorageFailed):  # then the next start takes as long as this one
            found.put(folder)
    return found


def verify_more(folder: str, head: int, digest_at: Callable[[int], bytes | None], rows: Rows) -> bool:
    """What the folder has is EVERY events further, where the log has so many more; whether it is. Raises BadEvent."""
    found = Verified.kept(folder, digest_at)
    if found.chain.position + EVERY > head:
        return False
    found.go_on(islice(rows(found.chain.position), EVERY))
    try:
        found.put(folder)
    except StorageFailed:
        return False
    return True
