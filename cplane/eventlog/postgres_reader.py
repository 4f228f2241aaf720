"""A node's log in a database, to be asked about its past; and whether it is what was written.

A reader has a connection of its own, which can only read, and sees the log as it was when it was made.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final

from cplane.errors import Corrupt
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import StoredRow, decode, decode_all, decode_fact
from cplane.eventlog.database import Connection, Place, connect, recognise, translated
from cplane.eventlog.errors import BadEvent, NoSuchNode, NotALog
from cplane.eventlog.gist import Gist
from cplane.eventlog.postgres_rows import LAST, SELECT_AT, SELECT_HEAD, SELECT_NODES, between
from cplane.events.envelope import Envelope, StreamId
from cplane.events.objects import object_of
from cplane.timetravel.history import History
from cplane.timetravel.ledger import Ledger
from cplane.timetravel.refused import Refused
from cplane.timetravel.wanted import Wanted

_ROWS: Final = 1024  # that are decoded at once
_NAMED_MAX: Final = 20  # nodes in a message


@contextmanager
def open_database(url: str, *, node: str = "", refusals: Sequence[Refused] = ()) -> Iterator[History]:
    """The history of one node's log: `node` in the URL, or else `node`, or else the only one that there is.

    Raises NotALog, NoSuchNode, NewerSchema, StorageFailed; what it is asked may raise BadEvent too.
    """
    with _opened(Place.of(url, node)) as (connection, place):
        yield History(PostgresReader(connection, place, refusals))


def verify_database(url: str, *, node: str = "") -> tuple[Chain, int, str]:
    """How far the log is sound, and what is wrong behind that: its position and a reason; 0 and nothing: nothing is.

    Raises NotALog, NoSuchNode, NewerSchema, StorageFailed.
    """
    chain = Chain()
    with _opened(Place.of(url, node)) as (connection, place):
        try:
            for row in between(connection, place.node, 0, LAST):
                chain.check(row)
                decode(row)
                chain.follow(row)
        except Corrupt as fault:
            if isinstance(fault, BadEvent):
                return chain, fault.position, fault.reason
            return chain, chain.position + 1, str(fault)
    return chain, 0, ""


@contextmanager
def _opened(place: Place) -> Iterator[tuple[Connection, Place]]:
    with translated(place.shown):
        connection = connect(place)
        try:
            if not recognise(connection, place):
                raise NotALog(place.shown, "the database is empty")
            yield connection, _with_node(connection, place)
        finally:
            connection.close()


def _with_node(connection: Connection, place: Place) -> Place:
    found = [
        bytes(node).decode() for (node,) in connection.execute(SELECT_NODES, binary=True) if isinstance(node, bytes)
    ]
    if place.node in found or (place.node and not found):
        return place
    if not place.node and len(found) == 1:
        return Place(place.conninfo, found[0], place.shown)
    there = ", ".join(found[:_NAMED_MAX]) + (f" and {len(found) - _NAMED_MAX} more" if len(found) > _NAMED_MAX else "")
    if not found:
        raise NoSuchNode(place.shown, "has no log yet: no agent has written there")
    if not place.node:
        raise NoSuchNode(place.shown, f"has the logs of {len(found)} nodes, and none is named: add node=NAME; {there}")
    raise NoSuchNode(place.shown, f"has no log of node {place.node!r}; there are {there}")


class PostgresReader:
    """A log in a database. Its head is where it was when this was made; nothing is ever dropped from it."""

    def __init__(self, connection: Connection, place: Place, refusals: Sequence[Refused] = ()) -> None:
        self._connection, self._place, self._refusals = connection, place, refusals
        self.start, self.head = 0, self._number(SELECT_HEAD, place.node)

    def entries(self, after: int, to: int) -> Iterator[Envelope]:
        """The events behind `after` up to and with `to`, in order. Raises BadEvent, StorageFailed."""
        rows = self._rows(after, to)
        while batch := list(islice(rows, _ROWS)):
            yield from decode_all(batch, after)
            after += len(batch)
        if after < to:
            raise BadEvent(after + 1, "the event is missing")

    def mark(self, position: int) -> tuple[bytes, int]:
        """Digest and time of the event at that position. Raises BadEvent, StorageFailed."""
        one = next(self.entries(position - 1, position))
        return one.digest, one.recorded_at_ns

    def about(self, names: Collection[str], after: int, to: int) -> Iterator[Envelope]:
        """Those of the same events that are about the objects of these names, in order. Raises BadEvent."""
        wanted = set(names)
        return (one for one in self.entries(after, to) if object_of(one.event) in wanted)

    def fold(self, ledger: Ledger, to: int) -> None:
        """The ledger is at that position. Raises BadEvent."""
        gist, counts = Gist(ledger.position), dict[StreamId, int]()
        for row in self._rows(ledger.position, to):
            if row[0] != gist.position + 1:
                break
            stream = StreamId(row[1].decode())
            counts[stream] = counts.get(stream, 0) + 1
            if row[4] == 1:
                gist.add((row[3],), (row[8],))
            else:
                gist.keep(row[3], row[4], row[8])
        if gist.position != to:
            raise BadEvent(gist.position + 1, "the event is missing")
        ledger.absorb((decode_fact(*row) for row in gist.rows()), to, counts)

    def find(self, wanted: Wanted) -> list[int]:
        """The positions of the events that are wanted, in order. Raises BadEvent."""
        to = self.head if wanted.to is None else min(self.head, wanted.to)
        return wanted.selects(self.entries(min(wanted.after, to), to))

    def refusals(self) -> Iterator[Refused]:
        """The last commands that were refused, oldest first: known to the agent itself only."""
        return iter(self._refusals)

    def position_at(self, instant_ns: int) -> int:
        """The last position that was recorded at or before it; 0: it is before the log."""
        return self._number(SELECT_AT, self._place.node, instant_ns, self.head)

    def snapshot(self, position: int) -> Ledger | None:
        """None: a database keeps none."""
        del position
        return None

    def _rows(self, after: int, to: int) -> Iterator[StoredRow]:
        with translated(self._place.shown):
            yield from between(self._connection, self._place.node, after, to)

    def _number(self, statement: bytes, *values: object) -> int:
        with translated(self._place.shown):
            row = self._connection.execute(statement, values, binary=True).fetchone()
        if row is None:
            return 0
        assert isinstance(row[0], int)
        return row[0]
