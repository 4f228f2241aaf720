"""`cplane log`: what the agent was told and decided, and whether the record is sound."""

import json
from typing import TYPE_CHECKING

import click

from cplane.cli.format import align, instant, plain, printable, to_json, to_yaml
from cplane.cli.log_archive import archive, compact
from cplane.cli.log_checkpoint import checkpoint
from cplane.cli.log_export import export_log, import_log
from cplane.cli.log_verify import verify
from cplane.cli.numbers import COUNT
from cplane.cli.session import Session, output_option

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.transport.client import ClientChannel

_HEADERS = ("position", "time", "actor", "type", "summary")


@click.group(invoke_without_command=True)
@click.option("--from", "first", type=COUNT, help="Start with this position.")
@click.option("--last", type=COUNT, help="Only the last so many events.")
@click.option("-f", "--follow", is_flag=True, help="Go on with the events to come, until interrupted.")
@output_option
@click.pass_context
def log(context: click.Context, *, first: int | None, last: int | None, follow: bool, output: str) -> None:
    """Show the events of the log; as JSON, one object on each line.

    With -f and an interrupt the exit code is 0.
    """
    if context.invoked_subcommand is not None:
        return
    if first is not None and last is not None:
        raise click.UsageError("--from and --last both say where to start: give one of them")
    session: Session = context.obj
    printer = _Printer(output)

    async def ask(channel: "ClientChannel") -> None:
        from cplane.pb.cplane.admin import v1 as pb

        request = pb.TailLogRequest(from_=first or 0, last=last or 0, follow=follow)
        async for batch in pb.LogServiceStub(channel).tail(request):
            printer.show(batch.entries)

    try:
        session.call(ask, patience_s=None, until_unread=True)
    except KeyboardInterrupt:
        if not follow:
            raise


class _Printer:
    """Prints events as they come; columns grow with what they have to hold."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._widths = [len(header) for header in _HEADERS]
        self._started = False

    def show(self, entries: "list[pb.LogEntry]") -> None:
        """Print these events."""
        if self._output != "table":
            for one in entries:
                shown = _plain(one)
                click.echo(to_json(shown, line=True) if self._output == "json" else f"---\n{to_yaml(shown)}")
            return
        rows = [self._row(one) for one in entries]
        self._widths = [max(width, *(len(row[i]) for row in rows)) for i, width in enumerate(self._widths)]
        if rows and not self._started:
            self._started = True
            click.echo(align([header.upper() for header in _HEADERS], self._widths))
        for row in rows:
            click.echo(align(row, self._widths))

    @staticmethod
    def _row(one: "pb.LogEntry") -> list[str]:
        cells = (str(one.position), instant(one.recorded_at_ns), one.actor, one.type, one.summary)
        return [printable(cell) for cell in cells]


def _plain(one: "pb.LogEntry") -> dict[str, object]:
    """An event for programs: its fields as an object, its time as text too."""
    shown = plain(one)
    assert isinstance(shown, dict)
    return shown | {"time": instant(one.recorded_at_ns), "data": json.loads(one.data)}


for command in (archive, checkpoint, compact, export_log, import_log, verify):
    log.add_command(command)
