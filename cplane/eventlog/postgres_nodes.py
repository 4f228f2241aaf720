"""The logs of several nodes in one database, for questions whose ends are on different nodes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Final

import msgspec

from cplane.eventlog.beside import own_folder
from cplane.eventlog.changes import Told
from cplane.eventlog.database import Connection, Place, connect, recognise, translated
from cplane.eventlog.errors import NoSuchNode, NotALog
from cplane.eventlog.postgres_reader import PostgresReader
from cplane.eventlog.postgres_rows import SELECT_NODES
from cplane.eventlog.reading import quietly
from cplane.timetravel.history import History
from cplane.timetravel.traffic import Address, Named, NodeName, PodName, Question

# The only statement that reads all events without an index, once for an end: a second for 1M of them.
_SELECT_HOMES: Final = (
    b"SELECT DISTINCT node FROM events WHERE type = 'endpoint.created' AND strpos(data, %s) > 0 ORDER BY node"
)


@contextmanager
def open_nodes(url: str, question: Question, told: Told = quietly) -> Iterator[dict[str, History]]:
    """The histories of the nodes that an end of the question has ever been on, or is; by the names of the nodes.

    Raises NotALog, NoSuchNode, NewerSchema, StorageFailed; what they are asked may raise BadEvent too.
    """
    with _opened(Place.of(url)) as (place, connection):
        there = nodes_in(connection)
        if not there:
            raise NoSuchNode(place.shown, "has no log yet: no agent has written there")
        names = sorted({name for one in question.ends for name in _nodes_of(connection, one, there)})
        with ExitStack() as stack:
            readers = {
                name: PostgresReader(connection, replace(place, node=name), own_folder(), told=told) for name in names
            }
            for one in readers.values():
                stack.callback(one.close)
            yield {name: History(one) for name, one in readers.items()}


@contextmanager
def names_no_node(url: str) -> Iterator[bool]:
    """Whether the address leaves open which node's log is meant, and there are several. Raises as `open_nodes`."""
    with _opened(Place.of(url)) as (place, connection):
        yield not place.node and len(nodes_in(connection)) > 1


@contextmanager
def _opened(place: Place) -> Iterator[tuple[Place, Connection]]:
    with translated(place.shown):
        connection = connect(place)
        try:
            if not recognise(connection, place):
                raise NotALog(place.shown, "the database is empty")
            yield place, connection
        finally:
            connection.close()


def nodes_in(connection: Connection) -> list[str]:
    """The names of all nodes that have a log there. Raises psycopg.Error."""
    return [_text(name) for (name,) in connection.execute(SELECT_NODES, binary=True)]


def _nodes_of(connection: Connection, end: Named, there: list[str]) -> list[str]:
    match end:
        case PodName():
            part = b'"pod":' + msgspec.json.encode(end.pod)
        case Address(text):
            part = msgspec.json.encode(text)
        case NodeName(name):
            return [name] if name in there else []
        case _:
            return []
    return [_text(name) for (name,) in connection.execute(_SELECT_HOMES, (part.decode(),), binary=True)]


def _text(value: object) -> str:
    assert isinstance(value, bytes), f"a node's name came as {value!r}"
    return value.decode()
