"""A node's log in a database, to be asked about its past; and whether it is what was written.

A reader has a connection of its own, which can only read, and sees the log as it was when it was made.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, cast

from cplane.errors import Corrupt
from cplane.eventlog.beside import kept_place
from cplane.eventlog.chain import Chain
from cplane.eventlog.changes import Said, Told
from cplane.eventlog.codec import StoredRow, decode
from cplane.eventlog.database import Connection, Place, connect, recognise, translated
from cplane.eventlog.errors import BadEvent, NoSuchNode, NotALog
from cplane.eventlog.postgres_refusals import read_refusals
from cplane.eventlog.postgres_rows import (
    LAST,
    SELECT_AT,
    SELECT_FACTS,
    SELECT_HEAD,
    SELECT_NODES,
    SELECT_OF_TYPES,
    SELECT_SAID,
    SELECT_VERSIONS,
    between,
    digest_at,
    original,
    said_row,
)
from cplane.eventlog.reading import Fact, StoredReader, quietly
from cplane.timetravel.refused import Refused

_NAMED_MAX: Final = 20  # nodes in a message
_STRETCH: Final = 20_000  # events of which those of some types are fetched together


@contextmanager
def open_database(
    url: str, *, node: str, folder: str, keeping: bool = True, told: Told = quietly
) -> "Iterator[PostgresReader]":
    """A reader of one node's log: `node` in the URL, or else `node`, or else the only one that there is.

    What is worked out is kept in `folder`; empty: it is not. Raises NotALog, NoSuchNode, NewerSchema, StorageFailed;
    what it is asked may raise BadEvent too.
    """
    with _opened(Place.of(url, node)) as (connection, place):
        reader = PostgresReader(connection, place, folder, keeping=keeping, told=told)
        try:
            yield reader
        finally:
            reader.close()


def verify_database(url: str) -> tuple[Chain, int, str]:
    """How far the log is sound, and what is wrong behind that: its position and a reason; 0 and nothing: nothing is.

    Raises NotALog, NoSuchNode, NewerSchema, StorageFailed.
    """
    chain = Chain()
    with _opened(Place.of(url)) as (connection, place):
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


class PostgresReader(StoredReader):
    """A log in a database; nothing is ever dropped from it."""

    folded_at_once = 2048  # a question to the database takes as long as a hundred rows

    def __init__(
        self, connection: Connection, place: Place, folder: str = "", *, keeping: bool = True, told: Told = quietly
    ) -> None:
        self._connection, self._place = connection, place
        head = self._number(SELECT_HEAD, place.node)
        first = self.digest_at(1) if folder and head else None
        kept = kept_place(folder, place.node, first) if first is not None else ""
        super().__init__(kept, start=0, head=head, keeping=keeping, told=told)

    def digest_at(self, position: int) -> bytes | None:
        """The digest of the event at that position; None: there is none."""
        with translated(self._place.shown):
            return digest_at(self._connection, self._place.node, position)

    def rows(self, after: int, to: int) -> Iterator[StoredRow]:
        """The rows behind `after` up to and with `to`, in order; whoever reads them finds gaps."""
        with translated(self._place.shown):
            yield from between(self._connection, self._place.node, after, to)

    def refusals(self) -> Iterator[Refused]:
        """The last commands that were refused, oldest first."""
        with translated(self._place.shown):
            yield from read_refusals(self._connection, self._place.node)

    def position_at(self, instant_ns: int) -> int:
        """The last position that was recorded at or before it; 0: it is before the log."""
        return self._number(SELECT_AT, self._place.node, instant_ns, self.head)

    def _facts(self, after: int, to: int) -> Sequence[Fact]:
        return cast("list[Fact]", self._fetched(SELECT_FACTS, after, to))

    def _versions(self, after: int, to: int) -> Mapping[str, int]:
        found = cast("list[tuple[bytes, int]]", self._fetched(SELECT_VERSIONS, after, to))
        return {original(to, stream).decode(): version for stream, version in found}

    def _said(self, after: int, to: int) -> Sequence[Said]:
        found = cast("list[Said]", self._fetched(SELECT_SAID, after, to))
        return [said_row(row) if b"\\" in row[3] or b"\\" in row[4] else row for row in found]

    def _of_types(self, types: Sequence[str], after: int, to: int) -> Iterator[tuple[int, bytes]]:
        for first in range(after, to, _STRETCH):
            found = self._fetched(SELECT_OF_TYPES, first, min(first + _STRETCH, to), list(types))
            yield from cast("list[tuple[int, bytes]]", found)

    def _fetched(self, statement: bytes, *values: object) -> list[tuple[object, ...]]:
        with translated(self._place.shown):
            return self._connection.execute(statement, (self._place.node, *values), binary=True).fetchall()

    def _number(self, statement: bytes, *values: object) -> int:
        with translated(self._place.shown):
            row = self._connection.execute(statement, values, binary=True).fetchone()
        if row is None:
            return 0
        assert isinstance(row[0], int)
        return row[0]
