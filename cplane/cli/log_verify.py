"""`cplane log verify`: whether the record is sound, and whether it is the one that was there before."""

from typing import TYPE_CHECKING, Final

import click

from cplane.cli.format import pairs, plain
from cplane.cli.log_checkpoint import compare, read
from cplane.cli.session import REFUSED, Session, emit, fail, output_option

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.transport.client import ClientChannel

_FIELDS: Final = ("events", "digest", "position", "fault", "start", "start_digest")

_EPILOG: Final = """\b
A log that was rewritten as a whole, or cut at its end, is sound by itself: only a checkpoint that was kept elsewhere
(`cplane log checkpoint`) shows that it is not the one that was there.

\b
Examples:
  cplane log verify --checkpoint monday.checkpoint --public-key audit.key.pub
  cplane log verify --log /var/lib/cplane/log.db
  cplane log verify --log 'postgresql://audit@db.example/cplane?node=n1'

\b
Exit codes:
  0  the log is sound, and contains the past of every checkpoint
  1  it is not, or a checkpoint is not by the key; what is wrong is named
  2  wrong usage, or no agent answers
"""


class Location(click.Path):
    """A log to read: a file that is there, or the address of a database."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False)

    def convert(  # type: ignore[override]  # click's own is wider, for paths that are bytes
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """The location as it is."""
        if value.startswith(("postgresql://", "postgres://")):
            return value
        return str(super().convert(value, param, ctx))


@click.command(epilog=_EPILOG)
@click.option(
    "--file",
    "--log",
    "path",
    type=Location(),
    metavar="LOCATION",
    help="Check this file and its archive, or a node's log in postgresql://…?node=NAME, without an agent.",
)
@click.option("--snapshots", is_flag=True, help="With --file: also check what was remembered of it for questions.")
@click.option(
    "--checkpoint",
    "checkpoints",
    type=click.Path(exists=True, dir_okay=False),
    multiple=True,
    help="Prove that this past is still in the log; with several, between which two it was changed.",
)
@click.option("--public-key", type=click.Path(exists=True, dir_okay=False), help="Who must have signed them (PEM).")
@output_option
@click.pass_obj
def verify(
    session: Session,
    *,
    path: str | None,
    snapshots: bool,
    checkpoints: tuple[str, ...],
    public_key: str | None,
    output: str,
) -> None:
    """Check that the stored log is unbroken and unchanged; exit code 1 when it is not."""
    if snapshots and path is None:
        raise click.UsageError("--snapshots looks at what was remembered of a log: give that log with --file")
    if public_key is not None and not checkpoints:
        raise click.UsageError("--public-key is whose checkpoints are trusted: give one with --checkpoint")
    wanted = [read(name, public_key) for name in checkpoints]
    shown = _verify_file(path) if path is not None else _ask_verify(session)
    rows = [("events", shown["events"]), ("digest", shown["digest"] or "-")]
    if shown["start"]:
        kept = int(str(shown["events"])) - int(str(shown["start"]))
        rows[0] = ("events", f"{kept}, the last at position {shown['events']}")
        gone = f"the past before is gone, its digest was {shown['start_digest']}"
        rows.append(("begins", f"from position {int(str(shown['start'])) + 1} on; {gone}"))
    if snapshots and path is not None and shown["ok"]:
        found = _verify_snapshots(path)
        shown |= found
        rows += [("snapshots", found["snapshots"]), ("wrong snapshots", found["wrong_snapshots"] or "-")]
    if not shown["ok"]:
        emit(output, shown, lambda: pairs([("log", "NOT SOUND"), *rows]))
        fail(f"position {shown['position']}: {shown['fault']}", code=REFUSED)
    changed = compare(session, path, wanted, shown)
    if wanted:
        shown |= {"checkpoints": len(wanted), "checkpoint_fault": changed}
        rows.append(("checkpoints", "NOT IN THIS LOG" if changed else f"{len(wanted)} in this log"))
    emit(output, shown, lambda: pairs([("log", "sound"), *rows]))
    if changed:
        fail(changed, code=REFUSED)
    if shown.get("wrong_snapshots"):
        fail(
            "snapshots were not what the log says, and have been thrown away: ask again what you asked",
            code=REFUSED,
        )


def _verify_file(path: str) -> dict[str, object]:
    from cplane.errors import CplaneError
    from cplane.eventlog.verify import verify_file

    try:
        found = verify_file(path)
    except CplaneError as error:
        fail(str(error))
    return {"ok": not found.fault} | {name: getattr(found, name) for name in _FIELDS}


def _verify_snapshots(path: str) -> dict[str, object]:
    """How many there are, and where there were wrong ones, which are gone."""
    from cplane.errors import CplaneError
    from cplane.eventlog.verify import verify_snapshots

    try:
        found = verify_snapshots(path)
    except CplaneError as error:
        fail(str(error))
    return {"snapshots": found.there, "wrong_snapshots": [*found.wrong]}


def _ask_verify(session: Session) -> dict[str, object]:
    async def ask(channel: "ClientChannel") -> "pb.VerifyLogResponse":
        from cplane.pb.cplane.admin import v1 as pb

        return await pb.LogServiceStub(channel).verify(pb.VerifyLogRequest())

    shown = plain(session.call(ask, patience_s=None))
    assert isinstance(shown, dict)
    return shown
