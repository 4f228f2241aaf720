"""`cplane endpoint`: list, get, relabel, config."""

from typing import TYPE_CHECKING, Final

import click

from cplane.cli.config import AUDIT, parse_assignments, switch_word
from cplane.cli.format import pairs, table
from cplane.cli.numbers import ENDPOINT
from cplane.cli.session import MARGIN_S, Session, complain, emit, output_option, wait_for, wait_options

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.transport.client import ClientChannel

_NAMESPACE: Final = "k8s:io.kubernetes.pod.namespace="


@click.group()
def endpoint() -> None:
    """Show, relabel and configure endpoints, the pods of this node."""


@endpoint.command("list")
@output_option
@click.pass_obj
def list_(session: Session, output: str) -> None:
    """Show all endpoints."""

    async def ask(channel: "ClientChannel") -> "pb.ListEndpointsResponse":
        from cplane.pb.cplane.admin import v1 as pb

        return await pb.EndpointServiceStub(channel).list(pb.ListEndpointsRequest())

    answer = session.call(ask)
    rows = [
        (one.id, _pod(one), one.ipv4 or "-", one.ipv6 or "-", one.identity, " ".join(one.labels))
        for one in answer.endpoints
    ]
    emit(output, answer, lambda: table(("endpoint", "pod", "ipv4", "ipv6", "identity", "labels"), rows))


@endpoint.command()
@click.argument("number", type=ENDPOINT, metavar="ENDPOINT")
@output_option
@click.pass_obj
def get(session: Session, number: int, output: str) -> None:
    """Show everything about one endpoint."""

    async def ask(channel: "ClientChannel") -> "pb.GetEndpointResponse":
        from cplane.pb.cplane.admin import v1 as pb

        return await pb.EndpointServiceStub(channel).get(pb.GetEndpointRequest(id=number))

    _show(output, session.call(ask).endpoint)


@endpoint.command()
@click.argument("number", type=ENDPOINT, metavar="ENDPOINT")
@click.argument("labels", nargs=-1, required=True, metavar="LABEL...")
@wait_options
@output_option
@click.pass_obj
def relabel(
    session: Session, *, number: int, labels: tuple[str, ...], wait: bool, timeout_s: float, output: str
) -> None:
    """Give an endpoint exactly these labels, `source:key=value`; without a source it is `k8s`.

    All others are gone, those that say its namespace, cluster and service account too: policies of a namespace are
    about endpoints with its label only.
    """

    async def ask(channel: "ClientChannel") -> "pb.RelabelEndpointResponse":
        from cplane.pb.cplane.admin import v1 as pb

        request = pb.RelabelEndpointRequest(id=number, labels=list(labels))
        answer = await pb.EndpointServiceStub(channel).relabel(request)
        if wait:
            await wait_for(channel, answer.position, timeout_s)
        return answer

    answer = session.call(ask, patience_s=timeout_s + MARGIN_S)
    one = answer.endpoint
    emit(
        output,
        answer,
        lambda: f"endpoint {number} has identity {one.identity if one else 0}\nposition {answer.position}",
    )
    if one is not None and one.namespace and not any(label.startswith(_NAMESPACE) for label in one.labels):
        complain(
            f"endpoint {number} has no namespace by its labels now, so policies of {one.namespace} are not about it; "
            f"give {_NAMESPACE}{one.namespace} too if they should be"
        )


_EPILOG: Final = """\b
Values:
  PolicyAuditMode=Enabled   what policies would drop of its traffic passes, with the verdict AUDIT
  PolicyAuditMode=Disabled  it is dropped, unless the agent's own PolicyAuditMode is Enabled
"""


@endpoint.command(epilog=_EPILOG)
@click.argument("number", type=ENDPOINT, metavar="ENDPOINT")
@click.argument("assignments", nargs=-1, metavar="[OPTION=VALUE]...")
@wait_options
@output_option
@click.pass_obj
def config(
    session: Session, *, number: int, assignments: tuple[str, ...], wait: bool, timeout_s: float, output: str
) -> None:
    """Show the options of an endpoint, or change them."""
    wanted = parse_assignments(assignments, (AUDIT,)).get(AUDIT)

    async def ask(channel: "ClientChannel") -> "pb.ConfigureEndpointResponse":
        from cplane.pb.cplane.admin import v1 as pb

        request = pb.ConfigureEndpointRequest(id=number, policy_audit=None if wanted is None else bool(wanted))
        answer = await pb.EndpointServiceStub(channel).configure(request)
        if wait:
            await wait_for(channel, answer.position, timeout_s)
        return answer

    answer = session.call(ask, patience_s=timeout_s + MARGIN_S)
    value = switch_word(on=answer.endpoint is not None and answer.endpoint.policy_audit)
    agents = " (the agent's own is Enabled)" if answer.agent_policy_audit and value == "Disabled" else ""
    shown = {
        "position": answer.position,
        "endpoint": number,
        "options": {AUDIT: value},
        "agent": {AUDIT: switch_word(on=answer.agent_policy_audit)},
    }
    emit(output, shown, lambda: pairs([(AUDIT, value + agents), ("position", answer.position)]))


def _show(output: str, one: "pb.Endpoint | None") -> None:
    from cplane.cli.format import plain

    shown = plain(one)
    assert isinstance(shown, dict)
    rows = [(name, " ".join(value) if isinstance(value, list) else value) for name, value in shown.items()]
    emit(output, shown, lambda: pairs(rows))


def _pod(one: "pb.Endpoint") -> str:
    return f"{one.namespace}/{one.pod}" if one.pod else one.container_id[:12]
