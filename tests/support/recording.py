"""Recorded logs: what an agent would have written for some commands, and the tables that it leads to."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cplane.deciders.world import Command, World
from cplane.domain.verdict import Direction
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import Row, StoredRow, decode_all, draft
from cplane.eventlog.reader import MemoryReader
from cplane.events.catalog import Event
from cplane.events.envelope import Envelope, Proposed
from cplane.projections.tables import UPSERT_ORDER, Tables
from cplane.reactors.reaction import settle
from cplane.timetravel.exported import export
from cplane.timetravel.history import History
from datapath.maps.ipcache import FAMILY_V4
from tests.support.churn import stored
from tests.support.clock import TickingClock

Step = tuple[str, Command | Callable[[World], Command]]  # why, and what; the last may depend on what there is by then


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


def write_logs(folder: Path, stories: Mapping[str, Sequence[Step]]) -> None:
    """The folder has the log of each story: as it is exported, and as a file of SQLite; and its tables as text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, steps in stories.items():
        rows = list(record(steps))
        entries = decode_all(map(_stored, rows), 0)
        lines = export(History(MemoryReader(entries)), 0)
        (folder / f"{name}.log.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        (folder / f"{name}.tables.txt").write_text(tables_of(entries))
        file = folder / f"{name}.db"
        file.unlink(missing_ok=True)
        stored(file, rows)


def _stored(row: Row) -> StoredRow:
    """The row as a reader gets it."""
    position, stream, version, kind, schema, recorded_at_ns, actor, cause, data, digest = row
    numbers = (schema, recorded_at_ns)
    texts = (actor.encode(), cause.encode(), data.encode())
    return position, stream.encode(), version, kind.encode(), *numbers, *texts, digest


def tables_of(log: Sequence[Envelope]) -> str:
    """The tables at each named position: behind all that one cause led to."""
    ends = {one.cause: one.position for one in log}
    told = {cause: tables_text([one.event for one in log[:end]]) for cause, end in ends.items()}
    return "".join(f"== position {ends[cause]}: {cause}\n{tables}\n\n" for cause, tables in told.items())


def tables_text(events: Sequence[Event]) -> str:
    """Every table after the events, one row on each line, sorted. A field that is zero is left out."""
    folded = Tables(events)
    found = []
    for name in UPSERT_ORDER:
        table: Any = folded.table(name)
        rows = sorted(f"  {_shown(key)}{'  →  ' if row else ''}{_shown(row)}" for key, row in table.items())
        found += [f"{name}: {len(rows)} rows", *rows]
    return "\n".join(found)


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
