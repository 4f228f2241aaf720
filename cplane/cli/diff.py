"""`cplane diff`: what differs between two moments."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from cplane.cli.format import counted, instant, printable, table
from cplane.cli.session import Session, emit, output_option
from cplane.cli.timetravel import MomentCommand, ask, log_option

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.timetravel.diff import Difference, TableChange
    from cplane.timetravel.history import History
    from cplane.timetravel.intent import Author, Change

_EPILOG = """\b
A moment is a position (1234), head, a time (2026-01-31T12:00:00Z, or 14:03 for today, UTC) or how long ago (2h).

\b
Examples:
  cplane diff 2h head
  cplane diff 120 140 --tables policymap,ipcache --log /var/lib/cplane/log.db

\b
Exit codes:
  0  done, whether anything differs or not
  1  the log says nothing of a moment, or cannot be read
  2  wrong usage, or no agent answers
"""
_MARKS = {"added": "+", "removed": "-", "changed": "~"}


@click.command(epilog=_EPILOG, cls=MomentCommand)
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option(
    "--tables", metavar="NAME,…", help="Only these: intent, policymap, ipcache, addresses, devices, lb-frontends…"
)
@log_option
@output_option
@click.pass_obj
def diff(session: Session, *, before: str, after: str, tables: str | None, log: str | None, output: str) -> None:
    """Show what changed between two moments, and by whom: policies, endpoints, identities, services, options.

    Also what became of the tables.
    """
    from msgspec import to_builtins

    from cplane.timetravel.diff import Difference

    wanted = [name.strip() for name in tables.split(",") if name.strip()] if tables is not None else []
    if tables is not None and not wanted:
        raise click.UsageError("--tables names nothing: leave it out for all of them")

    def offline(history: "History", now_ns: int) -> "Difference":
        from cplane.timetravel.diff import diff as question

        return question(history, now_ns, before=before, after=after, tables=wanted)

    async def online(agent: "pb.TimeTravelServiceStub") -> "pb.Document":
        from cplane.pb.cplane.admin import v1 as pb

        return await agent.diff(pb.DiffRequest(before=before, after=after, tables=wanted))

    found = ask(session, log, Difference, offline=offline, online=online)
    emit(output, to_builtins(found), lambda: "\n".join(_lines(found)))


def _lines(found: "Difference") -> Iterator[str]:
    yield f"position {found.before} {found.before_time}".rstrip()
    yield f"      to {found.after} {found.after_time}, {counted(found.events, 'event')}"
    changed = [one for one in found.tables if one.rows]
    if not found.intent and not changed:
        yield "nothing differs"
        return
    for change in found.intent:
        yield ""
        yield from intent_lines(change)
    for one in changed:
        yield ""
        yield f"table {one.table}: {counted(len(one.rows), 'row')} changed"
        yield table(("", *one.key_columns, *one.value_columns), _rows(one))


def intent_lines(change: "Change") -> Iterator[str]:
    """What became of one object, the events that did it, and its text before and after."""
    detail = f" ({change.detail})" if change.detail else ""
    yield printable(f"{_MARKS[change.action]} {change.object}{detail} {change.action}")
    if change.more:
        yield f"    {counted(change.more, 'earlier event')}, and"
    for author in change.events:
        yield f"    {author_line(author)}"
    for line in change.diff.splitlines()[2:]:  # without the names of the two sides
        yield printable(f"    {line}")


def author_line(author: "Author") -> str:
    """When an event was recorded, and who asked for it."""
    cause = f" because of {author.cause}" if author.cause else ""
    return printable(
        f"position {author.position}, {instant(author.recorded_at_ns)}, {author.actor}{cause}: {author.summary}"
    )


def _rows(one: "TableChange") -> Iterator[tuple[str, ...]]:
    """A line for each side that is there, that of before first, as `bpf … list` shows what differs."""
    for row in one.rows:
        if row.before:
            yield ("-", *row.key, *row.before)
        if row.after:
            yield ("+", *row.key, *row.after)
