"""The `hubble-relay` command: reads its settings, runs until SIGTERM or SIGINT, and says why when it cannot.

Exit code 0: it was told to end. 1: everything else.
"""

import os
import platform
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from cplane import __version__
from cplane.errors import CplaneError, leaves
from cplane.hubble.cli.options import Command, Group, Option, Switch
from cplane.hubble.relay.settings import CONFIG_FILE, KEYS, BadSetting, read
from cplane.terminal.completion import completion_command

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., object])

FAILED: Final = 1
_EPILOG: Final = """\b
A setting is taken from the first of these places where it stands:
  flags                --retry-timeout 10s
  the environment      RELAY_RETRY_TIMEOUT=10s
  configuration file   retry-timeout: 10s
"""


@click.group(
    cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=_EPILOG
)
@click.version_option(__version__, prog_name="hubble-relay", message="%(prog)s v%(version)s")
def cli() -> None:
    """Answer for the flows of many nodes: one observer in front of cplane's agents, and of any other of Hubble's."""


@cli.command(cls=Command)
def version() -> None:
    """Show the version."""
    click.echo(f"hubble-relay v{__version__} on {platform.python_implementation()} {platform.python_version()}")


def _settings(command: AnyCommand) -> AnyCommand:
    """The command takes every setting as a flag."""
    for name, key in reversed([*KEYS.items()]):
        flags = ["-D", f"--{name}"] if name == "debug" else [f"--{name}"]
        shown: dict[str, Any] = {"default": None, "section": "Settings", "help": key.help}  # Any: click's own
        if key.kind == "bool":
            command = click.option(*flags, cls=Switch, **shown)(command)
            continue
        shown["metavar"] = {"text": "TEXT", "duration": "DURATION", "number": "NUMBER"}[key.kind]
        if key.default:
            shown["help"] = f"{key.help}  [default: {key.default}]"
        command = click.option(*flags, cls=Option, **shown)(command)
    return command


@cli.command(cls=Command)
@click.option(
    "--config",
    cls=Option,
    default=CONFIG_FILE,
    metavar="FILE",
    section="Settings",
    help=f"Configuration file  [default: {CONFIG_FILE}, where there is one]",
)
@_settings
def serve(config: str, **given: str | bool | None) -> None:
    """Serve the flows of all nodes, until SIGTERM."""
    flags = {name.replace("_", "-"): str(value).strip() for name, value in given.items() if value is not None}
    try:
        settings = read(flags, os.environ, config)
    except BadSetting as bad:
        _end(bad)
    # after the settings are known to be good: these import everything
    import anyio

    from cplane.hubble.relay.wire import run
    from cplane.telemetry.log import configure

    configure(settings.log_level, settings.log_format)
    found: list[CplaneError] = []
    try:
        anyio.run(run, settings)
    except* CplaneError as failures:
        found = leaves(failures)
    for failure in found[:-1]:
        click.echo(f"hubble-relay: {failure}", err=True)
    if found:  # to exit above would be one more exception in a group, with its traceback (Python before 3.11.4)
        _end(found[-1])


def _end(error: CplaneError) -> None:
    click.echo(f"hubble-relay: {error}", err=True)
    sys.exit(FAILED)


cli.add_command(completion_command("hubble-relay"))


def main() -> None:
    """Run the command that the arguments name and exit."""
    cli(prog_name="hubble-relay")


if __name__ == "__main__":
    main()
