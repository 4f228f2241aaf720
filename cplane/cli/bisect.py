"""`cplane bisect`: which event changed a verdict, or something in a table."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from cplane.cli.format import printable, table
from cplane.cli.session import REFUSED, Session, emit, output_option
from cplane.cli.timetravel import ask, log_option, moment_option
from cplane.cli.traffic import Traffic, traffic_options

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.timetravel.bisect import Bisected, TableQuestion
    from cplane.timetravel.history import History
    from cplane.timetravel.traffic import Question

_TABLES: Final = (
    *("policymap", "ipcache", "addresses", "devices"),
    *("lb-frontends", "lb-slots", "lb-backends", "lb-affinity", "lb-skips", "lb-source-ranges", "lb-maglev"),
)
_ABSENT: Final = "ABSENT"  # `timetravel.verdicts`, which costs a command that only asks an agent time
_EPILOG: Final = """\b
An end is namespace/pod, an address, node, or identity:NUMBER. A port is 80/TCP, the name of one (http/TCP) or ICMP:8.
A moment is a position (1234), head, a time (2026-01-31T12:00:00Z, or 14:03 for today, UTC) or how long ago (2h).

\b
Examples:
  cplane bisect --from shop/web --to shop/db --port 5432/TCP --good 09:00 --bad head
  cplane bisect --table ipcache --has 10.0.0.7/32 --good 100 --bad 2h --log /var/lib/cplane/log.db

\b
Exit codes:
  0  the event was found
  1  both moments have the same answer, or the log says nothing of one, or cannot be read
  2  wrong usage, or no agent answers
"""


@click.command(epilog=_EPILOG)
@traffic_options
@click.option("--table", "name", type=click.Choice(_TABLES), metavar="TABLE", help=f"Ask about {', '.join(_TABLES)}.")
@click.option(
    "--has", metavar="KEY", help="With --table: is a row there whose key has these words, as replay shows it?"
)
@click.option("--count-gt", type=click.IntRange(0, 2**32 - 1), metavar="N", help="With --table: has it more rows?")
@moment_option("--good", required=True, text="When it was as it should be.")
@moment_option("--bad", required=True, text="When it was not; before or after the other.")
@log_option
@output_option
@click.pass_obj
def bisect(
    session: Session,
    *,
    source: str | None,
    destination: str | None,
    port: str | None,
    http: str | None,
    headers: tuple[str, ...],
    dns: str | None,
    name: str | None,
    has: str | None,
    count_gt: int | None,
    good: str,
    bad: str,
    log: str | None,
    output: str,
) -> None:
    """Find the event that changed the verdict on traffic, or what is in a table, between two moments.

    Each step looks at the position in the middle, so a log of a million events takes a dozen of them.
    """
    from msgspec import to_builtins

    from cplane.timetravel.bisect import Bisected

    traffic = Traffic(source, destination, port, http, headers, dns)
    question = _asked(traffic, name, has, count_gt)

    def offline(history: "History", now_ns: int) -> "Bisected":
        from cplane.timetravel.bisect import bisect as answer

        return answer(history, now_ns, question, good=good, bad=bad)

    async def online(agent: "pb.TimeTravelServiceStub") -> "pb.Document":
        from cplane.pb.cplane.admin import v1 as pb

        asked = None if name is not None else traffic.message()
        request = pb.BisectRequest(
            traffic=asked, table=name or "", has=has or "", count_gt=count_gt, good=good, bad=bad
        )
        return await agent.bisect(request)

    found = ask(session, log, Bisected, offline=offline, online=online)
    emit(output, to_builtins(found), lambda: "\n".join(_lines(found)))
    if found.turned is None:
        raise SystemExit(REFUSED)


def _asked(traffic: Traffic, name: str | None, has: str | None, count_gt: int | None) -> "Question | TableQuestion":
    """What is asked. Ends the process with a usage error where it is nothing, or two things."""
    if name is None:
        if has is not None or count_gt is not None:
            raise click.UsageError("--has and --count-gt are about a table: name it with --table")
        if traffic.is_empty:
            raise click.UsageError("ask about traffic with --from, --to and --port, or about a table with --table")
        return traffic.question()
    if not traffic.is_empty:
        raise click.UsageError("ask either about traffic or about a --table")
    from cplane.timetravel.bisect import BadPredicate, table_question

    try:
        return table_question(name, has or "", count_gt)
    except BadPredicate as error:
        raise click.UsageError(f"--table: {error}: give --has or --count-gt") from None


def _lines(found: "Bisected") -> Iterator[str]:
    from cplane.cli.why_text import text_of, turn_nodes

    rows = ((one.position, one.time or "-", one.answer) for one in found.steps)
    if found.turned is None:
        why = ": no such end, or no port of that name" if found.good.answer == _ABSENT else ""
        yield printable(f"{found.question}: {found.good.answer} at both positions{why}, nothing to find")
    else:
        event = found.turned.event
        yield printable(
            f"{found.question}: {found.turned.before} until position {event.position} made it {found.turned.after}"
        )
        yield from (line for node in turn_nodes(found.turned) for line in text_of(node, 1))
    yield ""
    yield table(("position", "time", "answer"), rows)
    yield from _others(found)


def _others(found: "Bisected") -> Iterator[str]:
    """What else changed the answer, and whether all of it was looked at."""
    if found.others:
        positions = ", ".join(map(str, found.others))
        yield f"the answer changed at other positions too: {positions}"
    if not found.counted:
        yield "whether it changed elsewhere was looked at in the last part only: there are too many events between"
