"""A command's call to the agent, and what its end means for the exit code.

0: done. 1: the agent refused or failed. 2: wrong usage, or no agent answers. 141: nobody reads the output.
"""

import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from cplane.transport.client import ClientChannel

T = TypeVar("T")
Callback = TypeVar("Callback", bound=Callable[..., object])

DEFAULT_SERVER: Final = "unix:///run/cplane/admin.sock"
REFUSED: Final = 1
UNREACHABLE: Final = 2
MARGIN_S: Final = 30.0  # for a change itself, beside the wait for the datapath
ANSWER_S: Final = 60.0  # an agent that takes longer, where no time was asked for, hangs
_OUTPUT: Final = "CPLANE_OUTPUT"


@dataclass
class Session:
    """Which agent is asked. `source` names the text that a command sends; it stands before errors in it."""

    server: str
    source: str = ""
    chosen: bool = field(default=False)  # by the user, not by default

    def call(
        self,
        ask: "Callable[[ClientChannel], Awaitable[T]]",
        *,
        patience_s: float | None = ANSWER_S,
        until_unread: bool = False,
    ) -> T:
        """What `ask` returns over a channel to the agent; ends the process when it cannot.

        With `until_unread` it ends when nobody reads the output, also while there is none: for what changes nothing.
        """
        from cplane.errors import CplaneError, Unavailable
        from cplane.terminal.interrupt import run_until_interrupted

        try:
            return run_until_interrupted(partial(self._ask, ask, patience_s), until_unread=until_unread)
        except TimeoutError:
            fail(f"{self.server} did not answer within {patience_s:g} s", code=UNREACHABLE)
        except Unavailable as error:
            fail(str(error), code=UNREACHABLE)
        except CplaneError as error:
            raise click.UsageError(str(error)) from None

    async def _ask(self, ask: "Callable[[ClientChannel], Awaitable[T]]", patience_s: float | None) -> T:
        import anyio
        from grpclib.exceptions import GRPCError, StreamTerminatedError

        from cplane.terminal.unread import is_unread
        from cplane.transport.client import Unreachable, connect

        with anyio.fail_after(patience_s):
            async with connect(self.server) as channel:
                try:
                    return await ask(channel)
                except GRPCError as error:
                    self._refused(error.message or error.status.name, channel.refusal)
                except (StreamTerminatedError, ConnectionError) as error:
                    if isinstance(error, BrokenPipeError) and is_unread():
                        raise  # it is our output, and no fault of the agent's
                    raise Unreachable(self.server, f"the connection broke: {error}") from error

    def _refused(self, message: str, trailer: bytes) -> NoReturn:
        """One line for each error, with its place in the text; then the end."""
        try:
            told = json.loads(trailer) if trailer else {}
        except ValueError:
            told = {}
        errors = told.get("errors") or []
        for error in errors:
            where = [self.source] if self.source else []
            where += [f"document {error['document']}"] if error["document"] else []
            where += [error["path"]] if error["path"] else []
            complain(f"{', '.join(where)}: {error['message']}" if where else error["message"])
        if told.get("more"):
            complain(f"and {told['more']} more errors")
        if not errors:
            complain(message)
        raise SystemExit(REFUSED)


def complain(message: str) -> None:
    """A line on standard error."""
    from cplane.cli.format import printable

    click.echo("\n".join(f"cplane: {printable(one)}" for one in message.splitlines() or [""]), err=True)


def fail(message: str, *, code: int = REFUSED) -> NoReturn:
    """A line on standard error and the end of the process."""
    complain(message)
    raise SystemExit(code)


def output_option(callback: Callback) -> Callback:
    """The command takes `-o table|json|yaml` as `output`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        show_default=True,
        envvar=_OUTPUT,
        help="How to print the answer.",
    )(callback)


def outputs(*choices: str, text: str = "How to print the answer.") -> Callable[[Callback], Callback]:
    """The command takes `-o` with these as `output`, the first by default, or what CPLANE_OUTPUT says of them."""

    def chosen(context: click.Context, option: click.Parameter, value: str) -> str:
        given = os.environ.get(_OUTPUT, "")
        is_asked = context.get_parameter_source(option.name or "") is not ParameterSource.DEFAULT
        return value if is_asked or given not in choices else given

    return click.option(
        "-o",
        "--output",
        type=click.Choice(choices),
        default=choices[0],
        show_default=True,
        callback=chosen,
        help=text,
    )


def timeout_option(callback: Callback) -> Callback:
    """The command takes `--timeout` (seconds, as `timeout_s`)."""
    return click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=30.0,
        show_default=True,
        help="Seconds to wait at most; exit code 1 when it takes longer.",
    )(callback)


def wait_options(callback: Callback) -> Callback:
    """The command takes `--wait` and `--timeout` (seconds, as `timeout_s`)."""
    return click.option("--wait", is_flag=True, help="Return when the datapath has it.")(timeout_option(callback))


def emit(output: str, message: object, text: Callable[[], str]) -> None:
    """The answer as the user wants it; `text` makes the table."""
    from cplane.cli.format import to_json, to_yaml

    match output:
        case "json":
            click.echo(to_json(message))
        case "yaml":
            click.echo(to_yaml(message))
        case _:
            click.echo(text())


async def wait_for(channel: "ClientChannel", position: int, timeout_s: float, *, applied: int = 0) -> None:
    """The datapath has everything up to the position; up to `applied` it has it already."""
    if applied >= position > 0:
        return
    from cplane.pb.cplane.admin import v1 as pb

    await pb.StatusServiceStub(channel).wait(pb.WaitRequest(position=position, timeout_ns=max(1, int(timeout_s * 1e9))))
