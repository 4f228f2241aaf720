"""The datapath's tables over gRPC: what should be there beside what is."""

from collections.abc import AsyncIterator, Iterator
from typing import Final

import anyio.to_thread

from cplane.api.endpoint import find
from cplane.api.ports import Engine, Table
from cplane.api.streaming import StreamingService
from cplane.errors import NotFound
from cplane.pb.cplane.admin import v1 as pb
from cplane.projections.rows import Columns, columns_of, only

_BATCH: Final = 25  # rows; about 5 ms of encoding, during which nobody else is served
_TRIES: Final = 3


class NoSuchTable(NotFound):
    """The datapath has no table of that name."""

    code = "table.not_found"

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        self.name, self.known = name, known

    def __str__(self) -> str:
        return f"there is no table {self.name!r}; known are {', '.join(self.known)}"


class MapService(StreamingService, pb.MapServiceBase):
    """Shows the tables."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def dump(self, message: pb.DumpMapRequest) -> AsyncIterator[pb.DumpMapResponse]:
        """Every row in key order. Raises NoSuchTable and NoSuchEndpoint."""
        target = self._engine.targets.get(message.table)
        if target is None:
            raise NoSuchTable(message.table, tuple(sorted(self._engine.targets)))
        endpoint = find(self._engine, message.endpoint) if message.endpoint else None
        position, desired, actual = await self._both(message.table)
        if endpoint is not None:
            desired, actual = only(endpoint, message.table, desired), only(endpoint, message.table, actual)
        keys = sorted(desired.keys() | actual.keys())
        sample = (*desired.values(), *actual.values())[:1]
        columns = columns_of(message.table, keys, sample, self._engine.policies.origins)
        batch = pb.DumpMapResponse(
            key_columns=[*columns.key_names],
            value_columns=[*columns.value_names],
            position=position,
            applied=self._engine.applied,
        )
        for start in range(0, len(keys), _BATCH):
            batch.rows = list(_rows(keys[start : start + _BATCH], columns, desired, actual))
            yield batch
            batch = pb.DumpMapResponse(position=position, applied=batch.applied)
        if not keys:
            yield batch

    async def _both(self, table: str) -> tuple[int, Table, Table]:
        """Position, wanted and present rows; read again when a change came between, at most three times."""
        for _ in range(_TRIES):
            position, desired = self._engine.head, dict(self._engine.desired(table))
            actual = await anyio.to_thread.run_sync(self._engine.targets[table].dump)
            if self._engine.head == position and self._engine.applied == position:
                break
        return position, desired, actual


def _rows(keys: list[tuple[object, ...]], columns: Columns, desired: Table, actual: Table) -> Iterator[pb.MapRow]:
    for key in keys:
        difference = pb.Difference.NONE
        if key not in actual:
            difference = pb.Difference.MISSING
        elif key not in desired:
            difference = pb.Difference.EXTRA
        elif desired[key] != actual[key]:
            difference = pb.Difference.CHANGED
        yield pb.MapRow(
            key=[*columns.key(key)],
            desired=[*columns.value(desired[key])] if key in desired else [],
            actual=[*columns.value(actual[key])] if key in actual else [],
            difference=difference,
        )
