"""`cplane log archive` and `cplane log compact`: where older events are, and how long."""

from typing import TYPE_CHECKING, Final

import click

from cplane.cli.format import pairs
from cplane.cli.log_verify import Location
from cplane.cli.session import emit, fail, output_option

if TYPE_CHECKING:
    from cplane.timetravel.history import History

_ARCHIVE: Final = """\b
Every command still sees the whole history. An agent does this itself with log_archive_after in its configuration.

\b
Examples:
  cplane log archive --log /var/lib/cplane/log.db
  cplane log archive --log copy.db --keep 1000

\b
Exit codes:
  0  done
  1  the log is in use or cannot be read, or the disk is full: nothing is lost
  2  wrong usage
"""
_COMPACT: Final = """\b
Only archived events are dropped, a whole segment (20,000 events) at a time: `cplane log archive` comes first.
Positions go on, and `cplane log verify` says where the log begins and which digest it had there.
A horizon is a position (1234), a time (2026-01-31T12:00:00Z) or how long ago (90d).

\b
Examples:
  cplane log compact --log /var/lib/cplane/log.db --keep 90d
  cplane log compact --log copy.db --keep 100000

\b
Exit codes:
  0  done
  1  the log is in use or cannot be read, or the disk is full: nothing is lost
  2  wrong usage
"""


@click.command(epilog=_ARCHIVE)
@click.option("--log", "path", required=True, type=Location(), metavar="FILE", help="The log's file.")
@click.option(
    "--keep", type=click.IntRange(min=1), default=1, show_default=True, help="So many events stay in the file."
)
@output_option
def archive(path: str, keep: int, output: str) -> None:
    """Move older events out of a log's file into compressed files beside it, LOG.archive, which may be copied with it.

    No agent may have the log meanwhile.
    """
    from cplane.errors import CplaneError
    from cplane.eventlog.archiving import archive_file

    _check_is_file(path)
    try:
        done = archive_file(path, lambda _: keep)
    except CplaneError as error:
        fail(str(error))
    shown = {"archived": done.events, "segments": done.segments, "last archived": done.end}
    emit(output, {name.replace(" ", "_"): value for name, value in shown.items()}, lambda: pairs(list(shown.items())))


@click.command(epilog=_COMPACT)
@click.option("--log", "path", required=True, type=Location(), metavar="FILE", help="The log's file.")
@click.option("--keep", required=True, metavar="HORIZON", help="Archived events before this are dropped.")
@output_option
def compact(path: str, keep: str, output: str) -> None:
    """Drop archived events that are older than a horizon, for good; what they led to is kept as the log's beginning.

    No agent may have the log meanwhile.
    """
    from cplane.errors import CplaneError
    from cplane.eventlog.archiving import compact_file
    from cplane.telemetry.clock import SystemClock

    _check_is_file(path)

    def horizon(history: "History") -> int:
        """The last position that may go."""
        from cplane.timetravel.when import position_or_ns

        position, instant_ns = position_or_ns(keep, now_ns)
        if position is None and instant_ns <= now_ns:
            return history.older_than(instant_ns)
        return max(history.position_of(keep, now_ns) - 1, 0)  # which raises for what is still to come

    now_ns = SystemClock().now_ns()
    try:
        done = compact_file(path, horizon)
    except CplaneError as error:
        fail(str(error))
    shown: dict[str, object] = {"dropped": done.events, "first": done.start + 1}
    if done.start:
        shown["digest before"] = done.digest.hex()
    emit(output, {name.replace(" ", "_"): value for name, value in shown.items()}, lambda: pairs(list(shown.items())))


def _check_is_file(location: str) -> None:
    """Ends the process where the log is in a database."""
    if "://" in location:
        fail(
            "a log in a database stays there as a whole: nothing of it is archived or dropped, and room is made with "
            "the database's own means; `cplane log export` and `import` make a file of it, which can be archived"
        )
