"""Logs as text: one row on each line, with the very bytes that are stored; and the tables that they lead to."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Any

import msgspec

from cplane.deciders.world import Command, World
from cplane.domain.verdict import Direction
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import Row, StoredRow, draft
from cplane.events.catalog import Event
from cplane.events.envelope import Proposed
from cplane.projections.tables import UPSERT_ORDER, Tables
from cplane.reactors.reaction import settle
from datapath.maps.ipcache import FAMILY_V4
from tests.support.clock import TickingClock

Step = tuple[str, Command | Callable[[World], Command]]  # why, and what; the last may depend on what there is by then


class Line(msgspec.Struct, frozen=True):
    """One row. `data` is kept as it stands: its bytes are what the digest covers."""

    position: int
    stream: str
    version: int
    type: str
    schema: int
    recorded_at_ns: int
    actor: str
    cause: str
    data: msgspec.Raw
    digest: str

    @classmethod
    def of(cls, row: Row) -> "Line":
        """The line of a row."""
        *columns, data, digest = row
        return cls(*columns, msgspec.Raw(data.encode()), digest.hex())

    def row(self) -> StoredRow:
        """The row as a reader gets it."""
        return (
            self.position,
            self.stream.encode(),
            self.version,
            self.type.encode(),
            self.schema,
            self.recorded_at_ns,
            self.actor.encode(),
            self.cause.encode(),
            bytes(self.data),
            bytes.fromhex(self.digest),
        )


def to_text(rows: Iterable[Row]) -> str:
    """The rows, one on each line."""
    return "".join(f"{msgspec.json.encode(Line.of(row)).decode()}\n" for row in rows)


def from_text(text: str) -> list[StoredRow]:
    """The inverse of `to_text`."""
    return [msgspec.json.decode(line, type=Line).row() for line in text.splitlines()]


def record(steps: Iterable[Step]) -> Iterator[Row]:
    """The rows that an engine would write for the commands, one append for each, `cause` saying why."""
    world, chain, clock = World(), Chain(), TickingClock()
    for cause, step in steps:
        command = step(world) if callable(step) else step
        decided, after = settle(command, world)
        expected = {stream: world.versions.get(stream, 0) for stream, _ in decided}
        proposed = Proposed(events=decided, expected=expected, actor="uid:0(root)", cause=cause)
        rows, _ = chain.extend(draft(proposed), expected, clock.now_ns())
        yield from rows
        world = after


def tables_text(events: Sequence[Event]) -> str:
    """Every table after the events, one row on each line, sorted. A field that is zero is left out."""
    folded = Tables(events)
    found = []
    for name in UPSERT_ORDER:
        table: Any = folded.table(name)
        rows = sorted(f"  {_shown(key)}{'  →  ' if row else ''}{_shown(row)}" for key, row in table.items())
        found += [f"{name}: {len(rows)} rows", *rows]
    return "\n".join(found)


def document(text: str | dict[str, Any]) -> str:
    """A document as the log holds it: canonical JSON."""
    return json.dumps(text, sort_keys=True, separators=(",", ":"))


def _shown(value: Any) -> str:
    if value is None:
        return ""
    fields = value._asdict()
    family = fields.pop("family", None)
    if family is not None:
        address = fields.pop("addr")
        text = str(ip_address(address[:4] if family == FAMILY_V4 else address))
        bits = fields.pop("prefix_bits", None)
        fields = {"": text if bits is None else f"{text}/{bits}", **fields}
    if "direction" in fields:
        fields["direction"] = Direction(fields["direction"]).name.lower()
    shown = (f"{name}={_plain(name, one)}" if name else one for name, one in fields.items() if _says_something(one))
    return " ".join(shown)


def _says_something(value: Any) -> bool:
    return any(value) if isinstance(value, bytes) else bool(value)


def _plain(name: str, value: Any) -> str:
    if not isinstance(value, bytes):
        return hex(value) if name == "precedence" else str(value)
    return str(ip_address(value)) if len(value) in {4, 16} else value.hex(":")
