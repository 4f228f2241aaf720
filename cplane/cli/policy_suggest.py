"""`cplane policy suggest`: policies that allow what was seen, and nothing else."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from cplane.cli.flows import KINDS, flows_option, seen_in
from cplane.cli.format import printable, to_json, to_yaml
from cplane.cli.policy_preview import window_line
from cplane.cli.session import Session, outputs
from cplane.cli.timetravel import ask, log_option, moment_option

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.timetravel.history import History
    from cplane.timetravel.suggest import Suggestion

_EPILOG: Final = f"""\b
A MOMENT is a time (2026-01-31T12:00:00Z, or 14:03 for today, UTC) or how long ago (2h).

{KINDS}
\b
Examples:
  cplane policy suggest -n shop --since 24h > shop.yaml && cplane policy preview -f shop.yaml --since 24h
  cplane policy suggest -n shop --log log.db --flows flows.jsonl

\b
Exit codes:
  0  done, also when nothing was seen and nothing is proposed
  1  no pod of the namespace is known, no flows are recorded at all, or the log or the flows cannot be read
  2  wrong usage, or no agent answers
"""


@click.command("suggest", epilog=_EPILOG)
@click.option("-n", "--namespace", required=True, help="Whose pods are to have policies.")
@moment_option("--since", default="", text="Flows from then on. Default: all that are recorded.")
@moment_option("--until", default="", text="Flows up to then.")
@click.option("--include-denied", is_flag=True, help="Allow what was denied, too.")
@click.option("--l4", "ports_only", is_flag=True, help="No rules for requests and names: addresses and ports alone.")
@log_option
@flows_option
@outputs("yaml", "json", text="How to print it.")
@click.pass_obj
def suggest(
    session: Session,
    *,
    namespace: str,
    since: str,
    until: str,
    include_denied: bool,
    ports_only: bool,
    log: str | None,
    flows: tuple[str, ...],
    output: str,
) -> None:
    """Propose policies for a namespace: each workload may do what it was seen to do, and nothing else.

    Where a proxy has read requests, these are what is allowed: methods and paths of HTTP, names of DNS and addresses by
    their names, topics of Kafka. Comments above a policy say where it allows more than was seen, as in a path where
    identifiers differed. What was looked at, and what is left out, stands above all of them. With -o json there is one
    object.
    """
    from msgspec import to_builtins

    from cplane.timetravel.suggest import Suggestion

    if (log is None) != (not flows):
        raise click.UsageError("--log and --flows go together: an agent has its own flows")

    def offline(history: "History", now_ns: int) -> "Suggestion":
        from cplane.timetravel.suggest import suggest as question

        seen = seen_in(flows, since, until, now_ns)
        assert seen is not None, "there are files"
        return question(
            history.moment(history.head).world,
            seen,
            namespace=namespace,
            include_denied=include_denied,
            ports_only=ports_only,
        )

    async def online(agent: "pb.TimeTravelServiceStub") -> "pb.Document":
        from cplane.pb.cplane.admin import v1 as pb

        request = pb.SuggestRequest(
            namespace=namespace, since=since, until=until, include_denied=include_denied, ports_only=ports_only
        )
        return await agent.suggest(request)

    found = ask(session, log, Suggestion, offline=offline, online=online)
    if output == "json":
        click.echo(to_json(to_builtins(found)))
        return
    for line in _comments(found, ports_only=ports_only):
        click.echo(f"# {printable(line)}")
    for policy in found.policies:
        click.echo("---")
        for line in found.notes.get(policy["metadata"]["name"], ()):
            click.echo(f"# {printable(line)}")
        click.echo(to_yaml(policy))


def _comments(found: "Suggestion", *, ports_only: bool) -> Iterator[str]:
    yield f"What was seen of namespace {found.namespace}: {window_line(found.window)}"
    if found.denied:
        yield f"{found.denied} connections that were denied are left out; --include-denied takes them in"
    if found.denied_requests:
        yield f"{found.denied_requests} requests that were denied are left out; --include-denied takes them in"
    if found.window.unasked and not ports_only:
        yield f"{found.window.unasked} requests are not known any more, so that rules for requests may lack them"
    if found.silent:
        yield f"no connection was seen of: {', '.join(found.silent)}"
    if found.unnamed:
        yield f"no policy can single out, for want of labels of their own: {', '.join(found.unnamed)}"
    if not found.policies:
        yield "nothing was seen, so nothing is proposed"
