"""The `hubble` command: its sub-commands, and how they end.

Exit code 0: done, interrupted, or nobody reads on. 1: everything else.
"""

import platform
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from cplane import __version__
from cplane.hubble.cli.config import config
from cplane.hubble.cli.failure import complain
from cplane.hubble.cli.listing import listing
from cplane.hubble.cli.observe import Observe, observe
from cplane.hubble.cli.options import Command, Group, global_options, server_options
from cplane.hubble.cli.output import ReaderGone
from cplane.hubble.cli.overview import graph, top
from cplane.hubble.cli.reflecting import reflect
from cplane.hubble.cli.status import status
from cplane.hubble.cli.watching import watch
from cplane.terminal.completion import completion_command

EPILOG: Final = """\b
A setting is taken from the first of these places where it stands:
  flags                --tls-server-name NAME
  the environment      HUBBLE_TLS_SERVER_NAME=NAME
  configuration file   tls-server-name: NAME
"""
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


class Hubble(Group):
    """The command itself: errors of every kind are one line and exit code 1, an interrupt is a good end."""

    def main(  # type: ignore[override]  # click's overloads say when it returns
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002  # as click has it
        **extra: Any,  # noqa: ANN401  # click's own
    ) -> int:
        """Run, and exit with the code, or without `standalone_mode` return it."""
        code = 0
        try:
            result = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            code = result if isinstance(result, int) else 0
        except click.ClickException as error:
            complain(error.format_message())
            code = 1
        except (click.Abort, KeyboardInterrupt, ReaderGone):
            pass
        if standalone_mode:
            sys.exit(code)
        return code


def _version() -> str:
    """The version, and what runs it, in upstream's form."""
    machine = platform.machine()
    runs = f"{platform.python_implementation()} {platform.python_version()}"
    where = f"{platform.system().lower()}/{_MACHINES.get(machine, machine)}"
    return f"hubble {__version__} compiled with {runs} on {where}"


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001  # click's own
    if value and not ctx.resilient_parsing:
        click.echo(_version())
        ctx.exit()


@click.group(
    cls=Hubble,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EPILOG,
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
@server_options
@global_options
def cli() -> None:
    """Show what an observer of the network has seen: cplane's own, or any other that speaks Hubble's language."""


@cli.command(cls=Command)
def version() -> None:
    """Show the version."""
    click.echo(_version())


@cli.command("help", cls=Command)
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def explain(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Explain a command."""
    context = ctx.find_root()
    for word in words:
        command = context.command
        found = command.get_command(context, word) if isinstance(command, click.Group) else None
        if isinstance(command, Observe):
            found = command.others.get(word)
        if found is None:
            raise click.UsageError(f"No such command {word!r}.")
        context = click.Context(found, info_name=word, parent=context)
    click.echo(context.get_help())


for command in (completion_command("hubble"), config, graph, listing, observe, reflect, status, top, watch):
    cli.add_command(command)


def main() -> None:
    """Run the command that the arguments name and exit."""
    cli(prog_name="hubble")


if __name__ == "__main__":
    main()
