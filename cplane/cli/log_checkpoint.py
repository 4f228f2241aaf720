"""`cplane log checkpoint`, and what `cplane log verify` makes of checkpoints."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cplane.cli.format import instant
from cplane.cli.session import Session, complain, emit, fail, output_option
from cplane.cli.timetravel import ask, log_option, moment_option

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.timetravel.checkpoint import Checkpoint, Signature
    from cplane.timetravel.history import History

_TEXT_MAX: Final = 4096

_EPILOG: Final = """\b
Keep it where whoever can change the log cannot, such as on another machine, and give it to `cplane log verify` later.

\b
Examples:
  cplane log checkpoint --generate-key --key audit.key > monday.checkpoint
  cplane log checkpoint --log /var/lib/cplane/log.db --at 2026-01-31T00:00:00Z

\b
Exit codes:
  0  done
  1  the log says nothing of that moment, or the key cannot be used
  2  wrong usage, or no agent answers
"""


@click.command(epilog=_EPILOG)
@moment_option("--at", default="head", text="A position or time, or the end.")
@click.option("--key", type=click.Path(dir_okay=False), help="Sign it with the private key in this PEM file (ed25519).")
@click.option("--generate-key", is_flag=True, help="Make the file of --key first, and KEY.pub for whoever verifies.")
@log_option
@output_option
@click.pass_obj
def checkpoint(session: Session, *, at: str, key: str | None, generate_key: bool, log: str | None, output: str) -> None:
    """Print what the log says at its end: position, digest, time and node; signed, if a key is given.

    The digest stands for every event up to there, so this much of the past can be proven to be unchanged later.
    """
    if generate_key and key is None:
        raise click.UsageError("--generate-key makes the file that --key names: give that too")
    from cplane.errors import CplaneError
    from cplane.timetravel.checkpoint import Checkpoint

    def offline(history: "History", now_ns: int) -> "Checkpoint":
        from cplane.timetravel.checkpoint import checkpoint as question

        return question(history, now_ns, at=at)

    async def online(agent: "pb.TimeTravelServiceStub") -> "pb.Document":
        from cplane.pb.cplane.admin import v1 as pb

        return await agent.checkpoint(pb.CheckpointRequest(at=at))

    made = ask(session, log, Checkpoint, offline=offline, online=online)
    try:
        signature = None if key is None else _signed(made, key, generate=generate_key)
    except CplaneError as error:
        fail(str(error))
    text = made.text() + ("" if signature is None else signature.line())
    emit(output, _plain(made, signature), lambda: text.removesuffix("\n"))


def _signed(made: "Checkpoint", key: str, *, generate: bool) -> "Signature":
    from cplane.cli import keys

    if generate:
        public = keys.generate(key)
        complain(f"the private key is in {key}, keep it; whoever verifies needs {public}")
    return keys.sign(made, key)


def _plain(made: "Checkpoint", signature: "Signature | None") -> dict[str, object]:
    from msgspec import to_builtins

    shown: dict[str, object] = to_builtins(made) | {"recorded_at": instant(made.recorded_at_ns)}
    if signature is not None:
        shown |= {"public_key": signature.key.hex(), "signature": signature.signature.hex()}
    return shown


def read(path: str, public: str | None) -> "Checkpoint":
    """The checkpoint in the file, whose signature is good, and by the key in the file `public` if there is one.

    Ends the process when it is not.
    """
    from cplane.cli import keys
    from cplane.errors import CplaneError
    from cplane.timetravel.checkpoint import read_checkpoint

    try:
        with Path(path).open("rb") as file:
            found, signature = read_checkpoint(file.read(_TEXT_MAX).decode(errors="replace"))
        wanted = None if public is None else keys.public_key(public)
    except OSError as error:
        fail(f"{path}: it cannot be read: {error.strerror}")
    except CplaneError as error:
        fail(f"{path}: {error}" if path not in str(error) else str(error))
    if signature is None:
        if wanted is not None:
            fail(f"{path}: it is not signed, so nothing shows that it is by {public}")
        return found
    if not keys.is_signed(found, signature):
        fail(f"{path}: its signature does not fit what it says: the file was changed")
    if wanted is not None and signature.key != wanted:
        fail(f"{path}: it is signed by another key than {public}: {signature.key.hex()}")
    return found


def compare(session: Session, log: str | None, wanted: "list[Checkpoint]", found: dict[str, object]) -> str:
    """What is wrong with the log by these checkpoints, of which it is sound by itself (`found`); empty: nothing.

    Ends the process when the log cannot be asked.
    """
    fits = int(str(found["start"]))
    for one in sorted(wanted, key=lambda one: one.position):
        fault = _fault(session, log, one, found, fits)
        if fault:
            return fault
        fits = one.position
    return ""


def _fault(session: Session, log: str | None, one: "Checkpoint", found: dict[str, object], fits: int) -> str:
    head, start = int(str(found["events"])), int(str(found["start"]))
    if one.position > head:
        return f"the log ends at position {head}, and the checkpoint is of position {one.position}: events are missing"
    if one.position < start:
        return (
            f"the log begins at position {start + 1}, and the checkpoint is of position {one.position}: what it is "
            "about was dropped, so nothing can be proven"
        )
    digest = str(found["start_digest"]) if one.position == start else _digest(session, log, one.position)
    if digest == one.digest:
        return ""
    return (
        f"position {one.position}: the log has the digest {digest}, the checkpoint {one.digest}: "
        f"an event from position {fits + 1} to {one.position} is not the one that was there"
    )


def _digest(session: Session, log: str | None, position: int) -> str:
    from cplane.timetravel.checkpoint import Checkpoint

    def offline(history: "History", now_ns: int) -> "Checkpoint":
        from cplane.timetravel.checkpoint import checkpoint as question

        return question(history, now_ns, at=str(position))

    async def online(agent: "pb.TimeTravelServiceStub") -> "pb.Document":
        from cplane.pb.cplane.admin import v1 as pb

        return await agent.checkpoint(pb.CheckpointRequest(at=str(position)))

    return ask(session, log, Checkpoint, offline=offline, online=online).digest
