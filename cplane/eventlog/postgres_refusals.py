"""The last commands that were refused, in the database that has the node's log: table `refusals`.

Its columns are those of the file that stands beside a log in a file (`refusals`), and `node`. The newest KEPT of each
node are there. One may be there twice, where the connection broke before the answer came.
"""

from collections.abc import Iterator, Sequence
from typing import Final, cast

import msgspec
import psycopg

from cplane.eventlog.database import Connection, Place, connect
from cplane.eventlog.refusals import KEPT, row_of
from cplane.timetravel.refused import Refused

_NAMES: Final = b"recorded_at_ns, actor, cause, command, objects, code, message"
_INSERT: Final = b"INSERT INTO refusals (node, " + _NAMES + b") VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
_SELECT: Final = b"SELECT " + _NAMES + b" FROM refusals WHERE node = %s ORDER BY id"
_DELETE: Final = (
    b"DELETE FROM refusals WHERE node = %s AND id <= "
    b"(SELECT id FROM refusals WHERE node = %s ORDER BY id DESC OFFSET %s LIMIT 1)"
)
_OBJECTS: Final = msgspec.json.Decoder(tuple[str, ...])


class RefusalsTable:
    """Keeps what was refused on a node. A database that is away comes back, so what cannot be written now waits."""

    is_patient = True

    def __init__(self, url: str, node: str) -> None:
        self._place = Place.of(url, node)

    def write(self, some: Sequence[Refused]) -> bool:
        """Whether they are written; it may block. They are few, and each time there is a connection for them alone."""
        node = self._place.node
        rows = [(node, *(_storable(one) for one in row_of(refused))) for refused in some]
        try:
            with connect(self._place, write=True) as connection, connection.transaction():
                connection.cursor().executemany(_INSERT, rows)
                connection.execute(_DELETE, (node, node, KEPT))
        except psycopg.Error:
            return False
        return True


def read_refusals(connection: Connection, node: str) -> Iterator[Refused]:
    """Those of the node, oldest first; none where the database is older than the table. Raises psycopg.Error."""
    try:
        rows = connection.execute(_SELECT, (node,), binary=True).fetchall()
    except psycopg.errors.UndefinedTable:
        return
    for row in rows:
        at, *texts = row
        actor, cause, command, objects, code, message = cast("list[bytes]", texts)
        yield Refused(
            recorded_at_ns=cast("int", at),
            actor=actor.decode(),
            cause=cause.decode(),
            command=command.decode(),
            objects=_OBJECTS.decode(objects),
            code=code.decode(),
            message=message.decode(),
        )


def _storable(value: int | str) -> int | str:
    """Texts of the database have no U+0000."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value
