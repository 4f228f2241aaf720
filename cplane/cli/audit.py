"""`cplane audit`: who changed what, when, and what was refused."""

import csv
import io
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Final

import click

from cplane.cli.format import align, instant, printable, to_json, to_yaml
from cplane.cli.numbers import COUNT
from cplane.cli.session import Session, outputs
from cplane.cli.timetravel import log_option, moment_option, stream

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.timetravel.audit import Asked, Entries, Entry
    from cplane.timetravel.history import History

_HEADERS: Final = ("position", "time", "actor", "object", "summary")
_FIELDS: Final = ("position", "time", "actor", "cause", "type", "object", "summary", "refused", "before", "after")
_BATCH: Final = 100

_EPILOG: Final = """\b
An OBJECT is named as `cplane audit` prints it: policy CiliumNetworkPolicy/shop/db, service shop/web, endpoint 7,
identity 300, options.
A MOMENT is a position, a time (2026-01-31T12:00:00Z, or 14:03 for today, UTC) or how long ago (2h).

\b
Examples:
  cplane audit --since 24h --kind policy --diff
  cplane audit --log /var/lib/cplane/log.db --object 'policy CiliumNetworkPolicy/shop/db' -o json

\b
For queries of your own there are the tables `events` (the log), `changes` (LOG.history) and `refusals` (LOG.refused).

\b
Exit codes:
  0  done
  1  the log says nothing of that moment, or cannot be read
  2  wrong usage, or no agent answers
"""


@click.command(epilog=_EPILOG)
@click.option("--actor", default="", metavar="WHO", help="Only what was asked for by, such as 'uid:0(root)'.")
@click.option("--object", "object_", default="", metavar="OBJECT", help="Only what is about this object.")
@click.option(
    "--kind",
    default="",
    help="Only objects of this kind: policy, endpoint, identity, pool, node, options, service, backend, "
    "service-options, name (of DNS).",
)
@moment_option("--since", default="", text="From then on.")
@moment_option("--until", default="", text="Up to then.")
@click.option("--last", type=COUNT, help="Only so many. Default: 100, or all with --since.")
@click.option("--refused", is_flag=True, help="Only commands that were refused.")
@click.option("--diff", "with_diff", is_flag=True, help="In the table: what each object was before, and is after.")
@click.option("--verdicts", is_flag=True, help="With the endpoints whose policy has other rows since.")
@log_option
@outputs("table", "json", "csv", "yaml", text="How to print the answer; json has an object on each line.")
@click.pass_obj
def audit(
    session: Session,
    *,
    actor: str,
    object_: str,
    kind: str,
    since: str,
    until: str,
    last: int | None,
    refused: bool,
    with_diff: bool,
    verdicts: bool,
    log: str | None,
    output: str,
) -> None:
    """Show every change with who asked for it, when and why, and the commands that were refused, oldest first."""
    from cplane.timetravel.audit import Asked, Entries

    asked = Asked(
        actor=actor,
        object=object_,
        kind=kind,
        since=since,
        until=until,
        last=last or 0,
        verdicts=verdicts,
        refused=refused,
    )

    def offline(history: "History", now_ns: int) -> "Iterator[Entries]":
        from itertools import islice

        from cplane.timetravel.audit import audit as question

        following = question(history, now_ns, asked)
        while found := tuple(islice(following, _BATCH)):
            yield Entries(entries=found)

    printer = _Printer(output, with_diff=with_diff)
    stream(session, log, Entries, printer.show, offline=offline, online=lambda agent: _online(agent, asked))
    printer.end()


def _online(agent: "pb.TimeTravelServiceStub", asked: "Asked") -> "AsyncIterator[pb.Document]":
    from msgspec import to_builtins

    from cplane.pb.cplane.admin import v1 as pb

    return agent.audit(pb.AuditRequest(**to_builtins(asked)))


class _Printer:
    """Prints entries as they come; columns grow with what they have to hold."""

    def __init__(self, output: str, *, with_diff: bool) -> None:
        self._output, self._with_diff = output, with_diff
        self._widths = [len(header) for header in _HEADERS]
        self._started = False

    def show(self, found: "Entries") -> Iterator[float]:
        """Print these; there is nothing to wait for."""
        if self._output == "table":
            rows = [_row(one) for one in found.entries]
            self._widths = [max(width, *(len(row[i]) for row in rows)) for i, width in enumerate(self._widths)]
            for one, row in zip(found.entries, rows, strict=True):
                self._line(one, row)
        else:
            for one in found.entries:
                self._record(one)
        return iter(())

    def end(self) -> None:
        """All have come."""
        if self._output == "csv" and not self._started:
            click.echo(_csv(_FIELDS))
        if self._output == "table" and not self._started:
            click.echo("nothing was changed or refused")

    def _line(self, one: "Entry", row: list[str]) -> None:
        if not self._started:
            click.echo(align([header.upper() for header in _HEADERS], self._widths))
        self._started = True
        click.echo(align(row, self._widths))
        for affected in one.endpoints or ():
            said = f"endpoint {affected.endpoint} ({affected.pod}) {affected.direction}: {affected.counts}"
            click.echo(printable(f"    {said}"))
        for line in one.diff.splitlines()[2:] if self._with_diff else ():  # without the names of the two sides
            click.echo(printable(f"    {line}"))

    def _record(self, one: "Entry") -> None:
        from msgspec import to_builtins

        shown = to_builtins(one) | {"time": instant(one.recorded_at_ns)}
        if self._output == "csv":
            if not self._started:
                click.echo(_csv(_FIELDS))
            refused = f"{one.refused.code}: {one.refused.message}" if one.refused is not None else ""
            cells = shown | {"refused": refused, "position": one.position or ""}
            sides = {side: to_json(shown[side], line=True) if shown[side] is not None else "" for side in _FIELDS[-2:]}
            click.echo(_csv([str((cells | sides)[name]) for name in _FIELDS]))
        else:
            click.echo(to_json(shown, line=True) if self._output == "json" else f"---\n{to_yaml(shown)}")
        self._started = True


def _row(one: "Entry") -> list[str]:
    said = one.summary if one.refused is None else f"REFUSED {one.summary}: {one.refused.message}"
    position = str(one.position) if one.position else "-"
    asked_by = f"{one.actor}, {one.cause}" if one.cause else one.actor
    cells = (position, instant(one.recorded_at_ns), asked_by, one.object or "-", said)
    return [printable(cell) for cell in cells]


def _csv(cells: "list[str] | tuple[str, ...]") -> str:
    """A record as RFC 4180 has it, without the line break at its end."""
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()
