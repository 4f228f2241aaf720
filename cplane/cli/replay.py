"""`cplane replay`: what was so at another time, and history as it went."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Final

import click

from cplane.cli.format import align, instant, printable, table, to_json, to_yaml
from cplane.cli.numbers import ENDPOINT
from cplane.cli.session import Session, emit, output_option
from cplane.cli.timetravel import ask, log_option, moment_option, stream
from cplane.terminal.progress import Told, progress

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.timetravel.history import History
    from cplane.timetravel.replay import Shown
    from cplane.timetravel.steps import Step, Steps

_SHOWS: Final = (
    *("summary", "policymap", "ipcache", "addresses", "devices", "endpoints", "identities", "policies"),
    *("services", "node", "options"),
    *("lb-frontends", "lb-slots", "lb-backends", "lb-affinity", "lb-skips", "lb-source-ranges", "lb-maglev"),
)
_HEADERS: Final = ("position", "time", "actor", "tables", "summary")
_STEPS: Final = 100
_DOCUMENT: Final = "document"  # always the last column

_EPILOG: Final = """\b
A moment is a position (1234), head, a time (2026-01-31T12:00:00Z, or 14:03 for today, UTC) or how long ago (2h).

\b
Examples:
  cplane replay --to 2h --show policymap 7
  cplane replay --log /var/lib/cplane/log.db --follow --from 14:00 --to 14:30

\b
Exit codes:
  0  done
  1  the log says nothing of that moment, or cannot be read
  2  wrong usage, or no agent answers
"""


@click.command(epilog=_EPILOG)
@moment_option("--to", default="head", text="What to go back to, or the last event.")
@click.option("--show", type=click.Choice(_SHOWS), metavar="WHAT", help=f"{', '.join(_SHOWS)}. Default: summary.")
@click.argument("endpoint", required=False, type=ENDPOINT)
@click.option("-f", "--follow", is_flag=True, help="Step through history, event by event, with what each changed.")
@moment_option("--from", "first", text="With --follow: the first event. Default: the log's.")
@click.option("--speed", metavar="N|max", help="With --follow: so many events per second. Default: max.")
@log_option
@output_option
@click.pass_obj
def replay(
    session: Session,
    *,
    to: str,
    show: str | None,
    endpoint: int | None,
    follow: bool,
    first: str | None,
    speed: str | None,
    log: str | None,
    output: str,
) -> None:
    """Show what was so at a moment of the past, of one ENDPOINT or of all, or how it came about.

    Tables are what the datapath should have contained then. With -o json or yaml, policies come with their documents,
    and --follow prints an object for each event.
    """
    if follow:
        if show is not None or endpoint is not None:
            raise click.UsageError("--follow shows events, and --show what is so after them: give one of them")
        _follow(session, log, first or "", to, _pause_s(speed), output)
        return
    if first is not None or speed is not None:
        raise click.UsageError("--from and --speed are about events: give --follow with them")
    from cplane.timetravel.replay import Shown

    asked = show or "summary"

    def offline(history: "History", now_ns: int) -> "Shown":
        from cplane.timetravel.replay import replay as question

        return question(history, now_ns, to=to, show=asked, endpoint=endpoint or 0)

    async def online(agent: "pb.TimeTravelServiceStub") -> "pb.Document":
        from cplane.pb.cplane.admin import v1 as pb

        return await agent.replay(pb.ReplayRequest(to=to, show=asked, endpoint=endpoint or 0))

    shown = ask(session, log, Shown, offline=offline, online=online)
    emit(output, _plain(shown), lambda: _table(shown))


def _table(shown: "Shown") -> str:
    """For people: without whole documents, which are for `-o yaml`."""
    count = sum(name != _DOCUMENT for name in shown.columns)
    return table(shown.columns[:count], (row[:count] for row in shown.rows))


def _plain(shown: "Shown") -> dict[str, object]:
    """For programs: each row by its columns, documents as objects."""
    rows: list[dict[str, object]] = [dict(zip(shown.columns, row, strict=True)) for row in shown.rows]
    for row in rows:
        if _DOCUMENT in row:
            row[_DOCUMENT] = json.loads(str(row[_DOCUMENT]))
    return {
        "position": shown.position,
        "time": shown.time,
        "show": shown.show,
        "endpoint": shown.endpoint,
        "rows": rows,
    }


def _pause_s(speed: str | None) -> float:
    """Seconds between two events."""
    if speed is None or speed == "max":
        return 0.0
    try:
        rate = float(speed)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise click.BadParameter(f"{speed!r} is no number of events per second, and not max", param_hint="--speed")
    return 1 / rate


def _follow(session: Session, log: str | None, first: str, last: str, pause_s: float, output: str) -> None:
    from cplane.timetravel.steps import Steps

    def offline(history: "History", now_ns: int) -> "Iterator[Steps]":
        from itertools import islice

        from cplane.timetravel.steps import span
        from cplane.timetravel.steps import steps as question

        begin, end = span(history, now_ns, first=first, last=last)
        following = question(history, begin, end)
        while found := tuple(islice(following, _STEPS)):
            yield Steps(to=end, steps=found)

    def online(agent: "pb.TimeTravelServiceStub") -> "AsyncIterator[pb.Document]":
        from cplane.pb.cplane.admin import v1 as pb

        return agent.steps(pb.StepsRequest(from_=first, to=last))

    with progress() as told:
        stream(session, log, Steps, _Printer(output, pause_s, told).show, told, offline=offline, online=online)


class _Printer:
    """Prints events as they come; on a terminal, standard error says how far it is."""

    def __init__(self, output: str, pause_s: float, told: Told) -> None:
        self._output, self._pause_s, self._told = output, pause_s, told
        self._widths = [len(header) for header in _HEADERS]
        self._started = False

    def show(self, found: "Steps") -> Iterator[float]:
        """Print these events; gives the seconds to wait between two of them."""
        rows = [_row(one) for one in found.steps]
        self._widths = [max(width, *(len(row[i]) for row in rows)) for i, width in enumerate(self._widths)]
        begin = found.steps[0].position
        for number, (step, row) in enumerate(zip(found.steps, rows, strict=True)):
            self._print(step, row)
            self._told("replay", step.position, found.to)
            if self._pause_s and begin + number < found.to:
                yield self._pause_s

    def _print(self, step: "Step", row: list[str]) -> None:
        if self._output == "table":
            if not self._started:
                click.echo(align([header.upper() for header in _HEADERS], self._widths))
            click.echo(align(row, self._widths))
        else:
            from msgspec import to_builtins

            shown = to_builtins(step) | {"time": instant(step.recorded_at_ns)}
            click.echo(to_json(shown, line=True) if self._output == "json" else f"---\n{to_yaml(shown)}")
        self._started = True


def _row(one: "Step") -> list[str]:
    touched = (
        f"{name} {_signed('+', change.added)}{_signed('-', change.removed)}{_signed('~', change.changed)}".rstrip()
        for name, change in one.tables.items()
    )
    cells = (str(one.position), instant(one.recorded_at_ns), one.actor, ", ".join(touched) or "-", one.summary)
    return [printable(cell) for cell in cells]


def _signed(sign: str, count: int) -> str:
    return f"{sign}{count} " if count else ""
