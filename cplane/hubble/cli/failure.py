"""How a command fails: one line on standard error, and exit code 1, whatever was wrong."""

import click

from cplane.hubble.cli.terminal import escape


class Failed(click.ClickException):
    """What was asked cannot be done; the message says why."""

    exit_code = 1


def complain(message: str) -> None:
    """Lines on standard error, without anything that a terminal would act upon."""
    click.echo("\n".join(map(escape, message.split("\n"))), err=True)
