"""`cplane-agent`: reads its configuration, runs until SIGTERM or SIGINT, and says why when it cannot."""

import ctypes
import sys
from typing import Final

import anyio
import click

from cplane import __version__
from cplane.config.load import agent_options, load
from cplane.config.model import BadConfig
from cplane.errors import CplaneError
from cplane.telemetry.log import configure

FAILED: Final = 1
MISCONFIGURED: Final = 2
_M_MMAP_THRESHOLD: Final = -3  # malloc.h of glibc
_MAPPED_BYTES: Final = 256 << 10


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
    _give_memory_back()
    from cplane.agent.wire import run  # after the configuration is known to be good: this imports everything

    try:
        anyio.run(run, settings)
    except* CplaneError as failures:
        for failure in _leaves(failures):
            click.echo(f"cplane-agent: {failure}", err=True)
        sys.exit(FAILED)


def _give_memory_back() -> None:
    """What a large change needs for a moment does not stay with the process.

    glibc maps large blocks by themselves, and unmaps them, but only until the first of them is freed: from then on
    they come from the heap, where anything that lies behind them keeps them. That cost twenty megabytes after a
    thousand rules. A threshold that was set stays. Other libraries of C have no such call, and no such habit.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


def _leaves(group: BaseExceptionGroup[CplaneError]) -> list[CplaneError]:
    found: list[CplaneError] = []
    for one in group.exceptions:
        found += _leaves(one) if isinstance(one, BaseExceptionGroup) else [one]
    return found


if __name__ == "__main__":
    main()
