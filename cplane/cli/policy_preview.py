"""`cplane policy preview`: what a change would do, before it is made."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cplane.cli.diff import intent_lines
from cplane.cli.flows import KINDS, flows_option, seen_in
from cplane.cli.format import instant, printable, table
from cplane.cli.session import Session, emit, output_option
from cplane.cli.timetravel import ask, log_option, moment_option

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.timetravel.history import History
    from cplane.timetravel.preview import Preview, SeenChange
    from cplane.timetravel.reach import Reach
    from cplane.timetravel.seen import Seen, Window

BREAKS: Final = 3
_SHOWN: Final = 40  # rows of each table
_ASKED_MAX: Final = 60  # characters of a request that are shown
_PEERS: Final = 5  # names in a cell
_EPILOG: Final = f"""\b
A MOMENT is a time (2026-01-31T12:00:00Z, or 14:03 for today, UTC), how long ago (2h), or for --at a position too.
The answer is judged by the code that fills the kernel's maps. What nobody did while flows were recorded is not known:
where that matters, apply it first with the annotation policy.cplane.io/audit: "true", which denies nothing.

{KINDS}
\b
Examples:
  cplane policy preview -f db.yaml --since 24h
  cplane policy preview --delete CiliumNetworkPolicy/shop/db --log log.db --flows flows.jsonl
  cplane policy preview -f db.yaml --log log.db --flows flows.ring --flows archive/ --since 24h

\b
Exit codes:
  0  nothing that is allowed now would be denied
  1  refused: the change is not valid, or the log cannot be read
  2  wrong usage, or no agent answers
  3  something that is allowed now would be denied
"""


@click.command("preview", epilog=_EPILOG)
@click.option(
    "-f", "--file", "files", multiple=True, metavar="FILE", help="YAML or JSON to apply; - is standard input."
)
@click.option("--delete", "deleted", multiple=True, metavar="POLICY", help="KIND/NAMESPACE/NAME of one to delete.")
@moment_option("--at", default="", text="Try it on what was so then. Default: on the present.")
@moment_option("--since", default="", text="Flows from then on. Default: all that are recorded.")
@moment_option("--until", default="", text="Flows up to then.")
@log_option
@flows_option
@output_option
@click.pass_obj
def preview(
    session: Session,
    *,
    files: tuple[str, ...],
    deleted: tuple[str, ...],
    at: str,
    since: str,
    until: str,
    log: str | None,
    flows: tuple[str, ...],
    output: str,
) -> None:
    """Show what applying or deleting policies would change: who could reach whom, and what was seen to."""
    from msgspec import to_builtins

    from cplane.timetravel.preview import Preview

    if not files and not deleted:
        raise click.UsageError("nothing to preview: give -f FILE or --delete POLICY")
    if flows and log is None:
        raise click.UsageError("--flows goes with --log: an agent has its own flows")
    text = b"\n---\n".join(_read(file) for file in files)

    def offline(history: "History", now_ns: int) -> "Preview":
        return _offline(history, now_ns, text, deleted, at, seen_in(flows, since, until, now_ns))

    async def online(agent: "pb.TimeTravelServiceStub") -> "pb.Document":
        from cplane.pb.cplane.admin import v1 as pb

        request = pb.PreviewRequest(documents=text, deleted=list(deleted), at=at, since=since, until=until)
        return await agent.preview(request)

    session.source = files[0] if len(files) == 1 and files[0] != "-" else ""
    found = ask(session, log, Preview, offline=offline, online=online)
    emit(output, to_builtins(found), lambda: "\n".join(_lines(found)))
    if found.breaks:
        raise SystemExit(BREAKS)


def _offline(
    history: "History", now_ns: int, text: bytes, deleted: Iterable[str], at: str, seen: "Seen | None"
) -> "Preview":
    from cplane.config.documents import located, read_objects
    from cplane.deciders.policy import InvalidDocuments
    from cplane.timetravel.fork import Fork, ref_of
    from cplane.timetravel.preview import endpoints_at
    from cplane.timetravel.preview import preview as question

    objects = read_objects(text) if text.strip() else ()
    world = history.moment(history.position_of(at or "head", now_ns)).world
    try:
        fork = Fork(world, tuple(one.text for one in objects), tuple(map(ref_of, deleted)))
    except InvalidDocuments as invalid:
        raise located(invalid, objects) from None
    earlier = endpoints_at(history, seen.window.first_ns) if seen is not None and seen.window.flows else None
    return question(fork, seen, earlier)


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror or error}") from None


def _lines(found: "Preview") -> Iterator[str]:
    yield f"tried on position {found.position}"
    if not found.changes:
        yield "the change changes nothing"
        return
    for change in found.changes:
        yield ""
        yield from intent_lines(change)
    yield ""
    yield from _reach(found)
    yield ""
    yield from _seen(found)
    if found.breaks and any(one.after for one in found.changes):
        from cplane.domain.policy.parse import AUDIT_ANNOTATION

        yield ""
        yield f'to watch it without denying anything, apply it with the annotation {AUDIT_ANNOTATION}: "true" first'


def _reach(found: "Preview") -> Iterator[str]:
    if not found.reach:
        yield "who could reach whom stays as it is"
        return
    yield "who could reach whom, as far as it changes:"
    groups = list(_alike(found.reach))
    rows = (tuple(map(printable, group)) for group in groups[:_SHOWN])
    yield table(("from", "to", "port", "verdict", "because"), rows)
    hidden = len(groups) - _SHOWN
    if hidden > 0:
        yield f"and {hidden} more lines (-o json has them)"
    if found.reach_more:
        yield f"and {found.reach_more} more pairs, none of them worse than these"
    if found.reach_unasked:
        yield f"{found.reach_unasked} more pairs were too many to be judged"


def _alike(rows: "Iterable[Reach]") -> Iterator[tuple[str, ...]]:
    """One line for all that fare alike against the same end; its reason is that of the first."""
    groups: dict[tuple[str, ...], list[Reach]] = {}
    for one in rows:
        own = one.source if one.direction == "egress" else one.destination
        groups.setdefault((one.direction, own, one.ports, one.before, one.after), []).append(one)
    for (direction, own, ports, before, after), group in groups.items():
        found = dict.fromkeys(one.destination if direction == "egress" else one.source for one in group)
        others = sorted(found, key=lambda one: one.startswith("reserved:"))  # pods first
        more = f" and {len(others) - _PEERS} more" if len(others) > _PEERS else ""
        peers = "; ".join(others[:_PEERS]) + more
        ends = (own, peers) if direction == "egress" else (peers, own)
        yield (*ends, ports, f"{before} → {after}", group[0].because)


def _seen(found: "Preview") -> Iterator[str]:
    if found.window is None:
        yield "no flows were given, so what was really sent is not known"
        return
    yield window_line(found.window)
    if not found.window.flows:
        return
    if found.new:
        more = f" and {len(found.new) - _PEERS + found.new_more} more" if len(found.new) > _PEERS else ""
        names = ", ".join(map(printable, found.new[:_PEERS]))
        yield f"pods that are new since the first of them, of which less was seen: {names}{more}"
    if found.drifted:
        yield f"{found.drifted} connections have another verdict by now than when they were seen, without this change"
    if found.gone:
        yield f"{found.gone} connections were of pods that are gone, or have other labels now"
    if not found.seen:
        yield "no connection that was seen would have another verdict"
        return
    yield f"connections that were seen: {found.denied} would be denied, {found.allowed} would be allowed:"
    rows = (
        (
            *(printable(cell) for cell in (one.source, one.destination, _what(one), _verdict(one))),
            str(one.count),
            instant(one.first_ns),
            instant(one.last_ns),
            printable(one.because),
        )
        for one in found.seen[:_SHOWN]
    )
    yield table(("from", "to", "port", "verdict", "times", "first seen", "last seen", "because"), rows)
    more_rows = len(found.seen) - _SHOWN + found.seen_more
    if more_rows > 0:
        yield f"and {more_rows} more (-o json has the first {len(found.seen)})"


def _what(one: "SeenChange") -> str:
    """The port, and what was asked for there."""
    asked = f" {one.request}" if one.request else ""
    return one.port + (asked if len(asked) <= _ASKED_MAX else f"{asked[:_ASKED_MAX]}…")


def _verdict(one: "SeenChange") -> str:
    """From what it is to what it would be, and what it was recorded as where that is something else."""
    was = "" if one.recorded == one.before else f" (was {one.recorded})"
    return f"{one.before} → {one.after}{was}"


def window_line(window: "Window") -> str:
    """What was looked at, and what of it is missing."""
    if not window.flows:
        since = f"; the oldest that there is is of {instant(window.kept_ns)}" if window.kept_ns else ""
        return f"no flows are recorded of that time, so what was really sent is not known{since}"
    lost = f", {window.lost} are lost in between" if window.lost else ", none is known to be lost"
    late = ""
    if window.asked_ns and window.kept_ns > window.asked_ns:
        late = f"; of the time from {instant(window.asked_ns)} to {instant(window.kept_ns)} there are none (any more)"
    unasked = f"; {window.unasked} requests are too many or too old to be judged again" if window.unasked else ""
    return f"{window.flows} flows from {instant(window.first_ns)} to {instant(window.last_ns)}{lost}{late}{unasked}"
