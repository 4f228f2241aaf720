"""The `cplane` command: its sub-commands, and what they share."""

import click

from cplane.cli.bpf import bpf
from cplane.cli.config import config
from cplane.cli.endpoint import endpoint
from cplane.cli.identity import identity, ip
from cplane.cli.log import log
from cplane.cli.policy import policy
from cplane.cli.policy_eval import evaluate
from cplane.cli.policy_matrix import matrix
from cplane.cli.policy_status import status as policy_status
from cplane.cli.policy_test import check
from cplane.cli.policy_validate import validate
from cplane.cli.probe import probe
from cplane.cli.session import DEFAULT_SERVER, Session
from cplane.cli.status import doctor, status, version, wait
from cplane.terminal.completion import completion_command

EPILOG = """\b
Exit codes:
  0  done
  1  the agent refused or failed, or a check failed
  2  wrong usage, or no agent answers

\b
Environment:
  CPLANE_SERVER  the agent to ask, as --server
  CPLANE_OUTPUT  table, json or yaml, as -o
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@click.option(
    "--server",
    default=DEFAULT_SERVER,
    show_default=True,
    envvar="CPLANE_SERVER",
    metavar="ADDRESS",
    help="Agent to ask: unix:///PATH, HOST:PORT or tls://HOST:PORT.",
)
@click.pass_context
def cli(context: click.Context, server: str) -> None:
    """Administer a cplane agent: its policies, endpoints, tables and log."""
    chosen = context.get_parameter_source("server") is not click.core.ParameterSource.DEFAULT
    context.obj = Session(server, chosen=chosen)


for command in (
    bpf,
    completion_command("cplane"),
    config,
    doctor,
    endpoint,
    identity,
    ip,
    log,
    policy,
    probe,
    status,
    version,
    wait,
):
    cli.add_command(command)
policy.add_command(policy_status)
for offline in (validate, evaluate, matrix, check):
    policy.add_command(offline)


def main() -> None:
    """Run the command that the arguments name and exit."""
    cli(prog_name="cplane")


if __name__ == "__main__":
    main()
