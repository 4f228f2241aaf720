"""The last commands that were refused, in a file of their own beside the log: `LOG.refused`.

Table `refusals`: `id` (grows), `recorded_at_ns` (UTC), `actor`, `cause`, `command`, `objects` (a JSON list), `code`,
`message`. It is no part of the log, and no digest proves it. The newest KEPT are there.
"""

import os
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from typing import Final, Protocol
from urllib.parse import quote

import anyio
import msgspec
from anyio import to_thread

from cplane.timetravel.refused import Refused

SUFFIX: Final = ".refused"
KEPT: Final = 10_000
WAITING_MAX: Final = 1024  # refusals that are not written yet; a further one is counted as lost
_TEXT_MAX: Final = 4096  # characters of a message
_OBJECTS_MAX: Final = 20  # names of objects of one refusal
_BUSY_S: Final = 2.0
_PAUSE_S: Final = 0.2  # in which refusals come together
_AWAY_S: Final = 5.0  # between two attempts to write what waits
_TABLE: Final = """
    CREATE TABLE IF NOT EXISTS refusals (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        recorded_at_ns INTEGER NOT NULL,
        actor TEXT NOT NULL,
        cause TEXT NOT NULL,
        command TEXT NOT NULL,
        objects TEXT NOT NULL,
        code TEXT NOT NULL,
        message TEXT NOT NULL
    ) STRICT
"""
_INSERT: Final = (
    "INSERT INTO refusals (recorded_at_ns, actor, cause, command, objects, code, message) VALUES (?, ?, ?, ?, ?, ?, ?)"
)


class Keeping(Protocol):
    """Where refusals are kept; `RefusalsFile` fits, and `postgres_refusals.RefusalsTable`."""

    @property
    def is_patient(self) -> bool:
        """Whether what cannot be written now is kept for later; otherwise it is lost."""
        ...

    def write(self, some: Sequence[Refused]) -> bool:
        """Whether they are written; it may block."""
        ...


class Refusals:
    """Takes what was refused, and writes it in the background: nobody who asks waits for it.

    `keeping` is where it is written; None: it is kept in memory.
    """

    def __init__(self, keeping: Keeping | None) -> None:
        self._keeping = keeping
        self._waiting: deque[Refused] = deque()
        self._more = anyio.Event()
        self._memory: deque[Refused] = deque(maxlen=KEPT)
        self.lost = 0  # that there was no room for, on the disk or before it

    def add(self, one: Refused) -> None:
        """It will be written; where too many wait it is lost, and counted."""
        one = msgspec.structs.replace(one, objects=one.objects[:_OBJECTS_MAX], message=one.message[:_TEXT_MAX])
        if self._keeping is None:
            self._memory.append(one)
            return
        if len(self._waiting) >= WAITING_MAX:
            self.lost += 1
            return
        self._waiting.append(one)
        self._more.set()

    async def run(self) -> None:
        """Writes until cancelled, and then what is left."""
        if self._keeping is None:
            return
        try:
            while True:
                await self._more.wait()
                await anyio.sleep(_PAUSE_S)
                if not await self._flush(self._keeping):
                    await anyio.sleep(_AWAY_S)
        finally:
            with anyio.CancelScope(shield=True):
                await self._flush(self._keeping)
            self.lost += len(self._waiting)
            self._waiting.clear()

    async def _flush(self, keeping: Keeping) -> bool:
        """What waits is written, or lost; False: it waits on."""
        self._more = anyio.Event()
        some = tuple(self._waiting)
        if not some:
            return True
        written = await to_thread.run_sync(keeping.write, some)
        if not written and keeping.is_patient:
            self._more.set()
            return False
        for _ in some:
            self._waiting.popleft()
        self.lost += 0 if written else len(some)
        return True

    def in_memory(self) -> Sequence[Refused]:
        """Those that are kept nowhere else."""
        return tuple(self._memory)


class RefusalsFile:
    """Keeps them beside a log in the file `log`."""

    is_patient = False

    def __init__(self, log: str) -> None:
        self._path = place_of(log)

    def write(self, some: Sequence[Refused]) -> bool:
        """Whether they are written; it may block."""
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            with closing(sqlite3.connect(self._path, timeout=_BUSY_S)) as connection, connection:
                connection.execute(_TABLE)
                connection.executemany(_INSERT, map(row_of, some))
                connection.execute("DELETE FROM refusals WHERE id <= (SELECT max(id) FROM refusals) - ?", (KEPT,))
        except (OSError, sqlite3.Error):
            return False
        return True


def place_of(log: str) -> str:
    """Where the file is: beside the log itself, whatever links lead there."""
    return os.path.realpath(log) + SUFFIX


def read_refusals(log: str) -> Iterator[Refused]:
    """Those of a log in a file, oldest first; none where there is no file of them that can be read."""
    path = place_of(log)
    if not os.path.isfile(path):
        return
    with suppress(sqlite3.Error, msgspec.MsgspecError):
        uri = f"file:{quote(path)}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as connection:
            rows = connection.execute(
                "SELECT recorded_at_ns, actor, cause, command, objects, code, message FROM refusals ORDER BY id"
            ).fetchall()
        for at, actor, cause, command, objects, code, message in rows:
            yield Refused(
                recorded_at_ns=at,
                actor=actor,
                cause=cause,
                command=command,
                objects=msgspec.json.decode(objects, type=tuple[str, ...]),
                code=code,
                message=message,
            )


def row_of(one: Refused) -> tuple[int, str, str, str, str, str, str]:
    """What a table has of it: all columns but the first, in their order."""
    actor, cause, command, code, message = map(_storable, (one.actor, one.cause, one.command, one.code, one.message))
    objects = msgspec.json.encode([_storable(name) for name in one.objects]).decode()
    return one.recorded_at_ns, actor, cause, command, objects, code, message


def _storable(text: str) -> str:
    """Half a surrogate pair, which users can send, is in no text that is stored."""
    return text.encode(errors="replace").decode()
