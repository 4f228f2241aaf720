"""`cplane rollback`: what was wanted at another time, wanted again."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from cplane.cli.diff import intent_lines
from cplane.cli.format import printable
from cplane.cli.session import MARGIN_S, Session, emit, output_option, wait_for, wait_options
from cplane.cli.timetravel import ask, log_option, moment_option

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.timetravel.history import History
    from cplane.timetravel.rollback import Rollback
    from cplane.transport.client import ClientChannel

_EPILOG: Final = """\b
A MOMENT is a position (1234), a time (2026-01-31T12:00:00Z, or 14:03 for today, UTC) or how long ago (2h).
Pods are not brought back, and nothing of the log is rewritten: a rollback can be rolled back.

\b
Examples:
  cplane rollback --to 2h --dry-run
  cplane rollback --to 1234 --only policies --wait

\b
Exit codes:
  0  done, whether anything had to change or not
  1  refused: nothing was changed
  2  wrong usage, or no agent answers
"""


@click.command(epilog=_EPILOG)
@moment_option("--to", required=True, text="When everything was as it shall be again.")
@click.option(
    "--only", metavar="PART,…", help="policies, options, endpoints (their audit mode), services. Default: all."
)
@click.option("--dry-run", is_flag=True, help="Change nothing, and show what would be.")
@wait_options
@log_option
@output_option
@click.pass_obj
def rollback(
    session: Session,
    *,
    to: str,
    only: str | None,
    dry_run: bool,
    wait: bool,
    timeout_s: float,
    log: str | None,
    output: str,
) -> None:
    """Put the policies, services, options and audit modes of a moment in force again, all of them or none.

    Policies and services that came since are deleted, unless --only leaves them out. With --dry-run and --log it shows
    what it would change of that log's last moment.
    """
    from msgspec import to_builtins

    from cplane.timetravel.rollback import Rollback

    parts = [name.strip() for name in only.split(",") if name.strip()] if only is not None else []
    if only is not None and not parts:
        raise click.UsageError("--only names nothing: leave it out for everything")
    if log is not None and not dry_run:
        raise click.UsageError("a log is only read: give --dry-run with --log, or no --log to ask the agent")

    def offline(history: "History", now_ns: int) -> "Rollback":
        from cplane.timetravel.rollback import target, trial

        return trial(target(history, now_ns, to=to, only=parts), history.moment(history.head).world)

    async def online(agent: "pb.TimeTravelServiceStub") -> "pb.Document":
        from cplane.pb.cplane.admin import v1 as pb

        return await agent.rollback(pb.RollbackRequest(to=to, only=parts, dry_run=dry_run))

    found = ask(session, log, Rollback, offline=offline, online=online)
    if wait and found.position:

        async def settled(channel: "ClientChannel") -> None:
            await wait_for(channel, found.position, timeout_s)

        session.call(settled, patience_s=timeout_s + MARGIN_S)
    emit(output, to_builtins(found), lambda: "\n".join(_lines(found, dry_run=dry_run)))


def _lines(found: "Rollback", *, dry_run: bool) -> Iterator[str]:
    then = f"position {found.to}{f' ({found.to_time})' if found.to_time else ''}"
    if not found.changes:
        yield f"all is as at {then}: nothing to change"
        return
    yield f"would go back to {then}:" if dry_run else f"went back to {then}:"
    for change in found.changes:
        yield ""
        yield from intent_lines(change)
    if found.endpoints:
        yield ""
        yield (
            "endpoints whose policy has other rows:" if not dry_run else "endpoints whose policy would have other rows:"
        )
    for one in found.endpoints:
        yield printable(f"    endpoint {one.endpoint} ({one.pod}) {one.direction}: {one.counts}")
    if found.position:
        yield ""
        yield f"position {found.position}"
