"""What commands about another time share: they ask a log that is named, or else the agent."""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Final, TypeVar

import click
from click.core import ParameterSource

from cplane.cli.session import Callback, Session, fail
from cplane.terminal.progress import Told, progress

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from cplane.pb.cplane.admin import v1 as pb
    from cplane.timetravel.history import History
    from cplane.transport.client import ClientChannel

Answer = TypeVar("Answer")
Opened = TypeVar("Opened")

# What code that may rely on what was decided runs into, where something else stands.
_NONSENSE: Final = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
_AGO: Final = re.compile(r"-(\d+[wdhms])+")


class MomentCommand(click.Command):
    """A command whose arguments are moments: `-2h` is one, and no options 2 and h."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; how long ago is read without its dash, which says no more."""
        return super().parse_args(ctx, [one[1:] if _AGO.fullmatch(one) else one for one in args])


def log_option(callback: Callback) -> Callback:
    """The command takes `--log LOCATION` as `log`."""
    return click.option(
        "--log",
        metavar="LOCATION",
        help="Ask this log and no agent: a file, which is only read and may be in use, or postgresql://….",
    )(callback)


def moment_option(
    *names: str, text: str, default: str | None = None, required: bool = False
) -> Callable[[Callback], Callback]:
    """The command takes a MOMENT, with that help. An empty one, as of a variable that is not set, is not none."""
    return click.option(
        *names,
        metavar="MOMENT",
        default=default,
        show_default=bool(default),
        required=required,
        callback=_not_empty,
        help=text,
    )


def _not_empty(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    given = option.name is not None and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    if given and value is not None and not value.strip():
        raise click.BadParameter("it is empty: name a moment, or leave the option out", context, option)
    return value


def ask(
    session: Session,
    log: str | None,
    answer: type[Answer],
    *,
    offline: "Callable[[History, int], Answer]",
    online: "Callable[[pb.TimeTravelServiceStub], Awaitable[pb.Document]]",
) -> Answer:
    """The answer by the log, or by the agent when none is named. Ends the process when there is none.

    `offline` gets the history and the present in UTC nanoseconds.
    """
    if log is not None:
        return ask_log(log, offline)

    async def call(channel: "ClientChannel") -> "pb.Document":
        from cplane.pb.cplane.admin import v1 as pb

        return await online(pb.TimeTravelServiceStub(channel))

    import msgspec

    return msgspec.json.decode(session.call(call, patience_s=None).json, type=answer)


def stream(
    session: Session,
    log: str | None,
    answer: type[Answer],
    show: "Callable[[Answer], Iterator[float]]",
    told: Told | None = None,
    *,
    offline: "Callable[[History, int], Iterator[Answer]]",
    online: "Callable[[pb.TimeTravelServiceStub], AsyncIterator[pb.Document]]",
) -> None:
    """Every answer is shown, as they come; `show` yields the seconds to wait before it goes on. Otherwise as `ask`.

    How far a long log is that must be read first is `told`, or shown.
    """
    if log is not None:

        def through(history: "History", now_ns: int) -> None:
            for one in offline(history, now_ns):
                for pause_s in show(one):
                    time.sleep(pause_s)

        ask_log(log, through, told)
        return

    import anyio
    import msgspec

    async def call(channel: "ClientChannel") -> None:
        from cplane.pb.cplane.admin import v1 as pb

        async for document in online(pb.TimeTravelServiceStub(channel)):
            for pause_s in show(msgspec.json.decode(document.json, type=answer)):
                await anyio.sleep(pause_s)

    session.call(call, patience_s=None, until_unread=True)


def ask_log(log: str, question: "Callable[[History, int], Answer]", told: Told | None = None) -> Answer:
    """What the question finds in the log. Ends the process when it cannot be asked.

    How far a long log is that must be read first is `told`, or shown.
    """

    def opened(hearing: Told) -> "AbstractContextManager[History]":
        from cplane.eventlog.reader import open_history

        return open_history(log, told=hearing)

    def answered(history: "History", now_ns: int) -> Answer:
        with blaming(log):
            return question(history, now_ns)

    return ask_opened(opened, answered, told)


@contextmanager
def blaming(*logs: str) -> Iterator[None]:
    """What code trips over in here is taken for what stands in the logs, where one of them is not sound."""
    try:
        yield
    except _NONSENSE:
        for log in logs:
            _blame(log)
        raise


def _blame(log: str) -> None:
    """Raises BadEvent when the log is not sound: its events, whose digests no question looks at, may say anything."""
    from cplane.errors import CplaneError
    from cplane.eventlog.errors import BadEvent
    from cplane.eventlog.verify import verify_file

    try:
        found = verify_file(log)
    except CplaneError:
        return
    if found.fault:
        raise BadEvent(found.position, found.fault)


def ask_opened(
    opened: "Callable[[Told], AbstractContextManager[Opened]]",
    question: "Callable[[Opened, int], Answer]",
    told: Told | None = None,
) -> Answer:
    """What the question finds in what `opened` opens, at the present. Ends the process when it cannot be asked."""
    from cplane.errors import CplaneError
    from cplane.telemetry.clock import SystemClock

    if click.get_current_context().find_root().get_parameter_source("server") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--log and --server both say whom to ask: give one of them")
    try:
        with nullcontext(told) if told is not None else progress() as hearing, opened(hearing) as found:
            return question(found, SystemClock().now_ns())
    except CplaneError as error:
        fail(str(error))
