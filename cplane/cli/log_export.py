"""`cplane log export` and `cplane log import`: a log as text, and a log of such text."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from cplane.cli.format import pairs
from cplane.cli.session import Session, emit, fail, output_option
from cplane.cli.timetravel import ask_log, log_option, moment_option

if TYPE_CHECKING:
    from cplane.timetravel.history import History
    from cplane.transport.client import ClientChannel

Write = Callable[[bytes], object]

_EXPORT: Final = """\b
The first line says whose log it is, the last one how it ends; each line between them is an event with its digest.
A moment is a position (1234), head, a time (2026-01-31T12:00:00Z, or 14:03 for today, UTC) or how long ago (2h).

\b
Examples:
  cplane log export --zstd > node7.log.zst
  cplane log export --log /var/lib/cplane/log.db --from 30d --to 14:00 | jq -r .type

\b
Exit codes:
  0  done
  1  the log says nothing of that moment or cannot be read, or the output cannot be written
  2  wrong usage, or no agent answers
"""
_IMPORT: Final = """\b
Examples:
  cplane log import node7.log.zst --log node7.db
  ssh node7 cplane log export | cplane log import - --log node7.db && cplane replay --log node7.db

\b
Exit codes:
  0  done
  1  the file was changed or cut, or the log cannot be made: nothing is left behind
  2  wrong usage
"""


@click.command("export", epilog=_EXPORT)
@moment_option("--from", "first", default="", text="The first event. Default: the log's.")
@moment_option("--to", "last", default="", text="The last event. Default: the log's at this moment.")
@click.option("--zstd", is_flag=True, help="Compress it, to about a tenth.")
@log_option
@click.pass_obj
def export_log(session: Session, *, first: str, last: str, zstd: bool, log: str | None) -> None:
    """Write the log, or a part of it, to standard output as JSON lines: for `cplane log import` and other programs."""
    target = sys.stdout.buffer
    if target.isatty() and zstd:
        raise click.UsageError("the output is a terminal, and compressed: send it to a file")
    try:
        with _writer(target, zstd=zstd) as write:
            if log is not None:
                _export_file(log, first, last, write)
            else:
                _export_agent(session, first, last, write)
        target.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        fail(f"the output cannot be written: {error.strerror}; what is there is no export")


@contextmanager
def _writer(target: BinaryIO, *, zstd: bool) -> Iterator[Write]:
    if not zstd:
        yield target.write
        return
    import zstandard

    with zstandard.ZstdCompressor(level=6, write_checksum=True).stream_writer(target, closefd=False) as packed:
        yield packed.write


def _export_file(log: str, first: str, last: str, write: Write) -> None:
    def through(history: "History", now_ns: int) -> None:
        from cplane.timetravel.exported import export

        for line in export(history, now_ns, first=first, last=last):
            write(line + b"\n")

    ask_log(log, through)


def _export_agent(session: Session, first: str, last: str, write: Write) -> None:
    async def call(channel: "ClientChannel") -> None:
        from cplane.pb.cplane.admin import v1 as pb

        found: AsyncIterator[pb.Document] = pb.TimeTravelServiceStub(channel).export(
            pb.ExportRequest(from_=first, to=last)
        )
        async for document in found:
            write(document.json.encode() + b"\n")

    session.call(call, patience_s=None, until_unread=True)


@click.command("import", epilog=_IMPORT)
@click.argument("source", metavar="FILE|-", type=click.Path(allow_dash=True, dir_okay=False))
@click.option("--log", "path", required=True, metavar="NEW", help="The file to make; nothing is written over another.")
@output_option
def import_log(source: str, path: str, output: str) -> None:
    """Make a log of what `cplane log export` wrote, with the same positions and digests; each of them is checked.

    A file that was changed or cut is refused, and the line and the position are named.
    """
    from cplane.errors import CplaneError
    from cplane.eventlog.importing import import_log as question

    try:
        if source == "-":
            made = question(sys.stdin.buffer, path)
        else:
            with Path(source).open("rb") as file:
                made = question(file, path)
    except OSError as error:
        fail(f"{source}: it cannot be read: {error.strerror}")
    except CplaneError as error:
        fail(f"{source}: {error}" if source != "-" else str(error))
    shown = {
        "log": path,
        "events": made.events,
        "first": made.start + 1,
        "last": made.last,
        "digest": made.digest.hex(),
    }
    emit(output, shown, lambda: pairs(list(shown.items())))
