"""The `cplane` command: its sub-commands, and what they share."""

import click

from cplane.cli.audit import audit
from cplane.cli.bisect import bisect
from cplane.cli.bpf import bpf
from cplane.cli.config import config
from cplane.cli.diff import diff
from cplane.cli.endpoint import endpoint
from cplane.cli.fqdn import fqdn
from cplane.cli.identity import identity, ip
from cplane.cli.log import log
from cplane.cli.policy import policy
from cplane.cli.policy_eval import evaluate
from cplane.cli.policy_matrix import matrix
from cplane.cli.policy_preview import preview
from cplane.cli.policy_status import status as policy_status
from cplane.cli.policy_suggest import suggest
from cplane.cli.policy_test import check
from cplane.cli.policy_validate import validate
from cplane.cli.probe import probe
from cplane.cli.replay import replay
from cplane.cli.rollback import rollback
from cplane.cli.service import service
from cplane.cli.service_apply import apply as service_apply
from cplane.cli.session import DEFAULT_SERVER, Session
from cplane.cli.status import doctor, status, version, wait
from cplane.cli.why import why
from cplane.terminal.completion import completion_command
from cplane.terminal.unread import Program

EPILOG = """\b
Exit codes:
  0  done
  1  the agent refused or failed, or a check failed
  2  wrong usage, or no agent answers
  141  nobody reads the output any more, as of `… | head`

\b
Environment:
  CPLANE_SERVER  the agent to ask, as --server
  CPLANE_OUTPUT  table, json or yaml, as -o
"""


class Cplane(Program):
    """A program whose arguments are text, but for the paths among them."""

    def invoke(self, ctx: click.Context) -> object:
        """As click's."""
        try:
            return super().invoke(ctx)
        except UnicodeEncodeError as error:
            if not "\ud800" <= error.object[error.start] <= "\udfff":
                raise
            # Half of a pair stands for a byte of an argument (PEP 383), which no message can hold.
            raise click.UsageError(f"{error.object!r} has bytes that are no UTF-8") from None


@click.group(
    cls=Cplane, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG
)
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
    audit,
    bisect,
    bpf,
    completion_command("cplane"),
    config,
    diff,
    doctor,
    endpoint,
    fqdn,
    identity,
    ip,
    log,
    policy,
    probe,
    replay,
    rollback,
    service,
    status,
    version,
    wait,
    why,
):
    cli.add_command(command)
service.add_command(service_apply)
for of_policies in (policy_status, preview, suggest):
    policy.add_command(of_policies)
for offline in (validate, evaluate, matrix, check):
    policy.add_command(offline)


def main() -> None:
    """Run the command that the arguments name and exit."""
    cli(prog_name="cplane")


if __name__ == "__main__":
    main()
