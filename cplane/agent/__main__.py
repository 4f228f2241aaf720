"""`cplane-agent`: reads its configuration, runs until SIGTERM or SIGINT, and says why when it cannot."""

import sys
from typing import Final

import anyio
import click

from cplane import __version__
from cplane.agent import memory
from cplane.config.load import agent_options, load
from cplane.config.model import BadConfig
from cplane.errors import CplaneError, leaves
from cplane.telemetry.log import configure
from datapath.errors import DatapathError

FAILED: Final = 1
MISCONFIGURED: Final = 2


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="cplane-agent")
@agent_options
def main(config: str | None, **flags: object) -> None:
    """Enforce policies for the pods of this node, from an event log, until SIGTERM.

    Exit status: 0 after SIGTERM or SIGINT, 1 when it cannot run, 2 when it is misconfigured.
    """
    try:
        settings = load(config, flags)
    except BadConfig as bad:
        click.echo(f"cplane-agent: {bad}", err=True)
        sys.exit(MISCONFIGURED)
    configure(settings.log_level, settings.log_format)
    memory.give_back()
    memory.starting()
    from cplane.agent.wire import run  # after the configuration is known to be good: this imports everything

    failed = False
    try:
        anyio.run(run, settings)
    except* (CplaneError, DatapathError) as failures:
        failed = True  # to exit here would be one more exception in a group, with its traceback (before Python 3.11.4)
        for failure in leaves(failures):
            click.echo(f"cplane-agent: {failure}", err=True)
    if failed:
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
