"""`cplane why`: the verdict on traffic, who says so, since when, and what would have let it through."""

from contextlib import suppress
from typing import TYPE_CHECKING, Final
from uuid import UUID

import click

from cplane.cli.flows import KINDS, flow_in
from cplane.cli.format import to_json, to_yaml
from cplane.cli.session import Session, outputs
from cplane.cli.timetravel import ask, log_option, moment_option
from cplane.cli.traffic import Traffic, traffic_options
from cplane.cli.why_across import answer_of, ask_nodes, is_of_nodes, parts_of

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.timetravel.across import WhyAcross
    from cplane.timetravel.history import History
    from cplane.timetravel.why import Why

_EPILOG: Final = f"""\b
An end is namespace/pod, an address, node, or identity:NUMBER. A port is 80/TCP, the name of one (http/TCP) or ICMP:8.
A moment is a position (1234), head, a time (2026-01-31T12:00:00Z, or 14:03 for today, UTC) or how long ago (2h).

{KINDS}
\b
In a database that has the logs of several nodes, with no node=NAME in its address, each end's node is asked for its
own policy, at the same time; --at is a time there, and the answer has those of both nodes.

\b
Examples:
  cplane why --from shop/web --to shop/db --port 5432/TCP --at 14:03
  cplane why 5f1c62a4-6a1e-4c1e-9e2b-8c0d6f6b7a01
  cplane why 5f1c62a4-6a1e-4c1e-9e2b-8c0d6f6b7a01 --log log.db --flows flows.ring --flows archive/

\b
Exit codes:
  0  answered, whatever the verdict is
  1  there is no such end, flow or moment, or the log cannot be read
  2  wrong usage, or no agent answers
"""


@click.command(epilog=_EPILOG)
@click.argument("uuid", required=False, metavar="[FLOW_UUID]")
@traffic_options
@moment_option("--at", text="When. Default: now, or the last event of the log.")
@click.option("--flow", "--flows", multiple=True, metavar="PATH", help="Recorded flows; FLOW_UUID says which is meant.")
@log_option
@outputs("text", "tree", "json", "yaml")
@click.pass_obj
def why(
    session: Session,
    *,
    uuid: str | None,
    source: str | None,
    destination: str | None,
    port: str | None,
    http: str | None,
    headers: tuple[str, ...],
    dns: str | None,
    at: str | None,
    flow: tuple[str, ...],
    log: str | None,
    output: str,
) -> None:
    """Say why traffic is or was allowed or denied: by which rules, put there by whom, and since when.

    Ask by the uuid of a recorded flow, which is judged by the rules that were in force for it, or by two ends.
    """
    traffic = Traffic(source, destination, port, http, headers, dns)
    if uuid is None and not flow and log is not None and is_of_nodes(log):
        _print_across(ask_nodes(log, traffic.question(), at or ""), output)
        return
    if uuid is None and not flow:
        found = _of_traffic(session, log, traffic, at or "")
    else:
        if at is not None or not traffic.is_empty:
            raise click.UsageError("a flow says who talked to whom, and when: leave --from, --to, --port and --at out")
        found = _of_flow(session, log, _checked(uuid), flow)
    _print(found, output)


def _of_traffic(session: Session, log: str | None, traffic: Traffic, at: str) -> "Why":
    from cplane.timetravel.why import Why
    from cplane.timetravel.why import why as answer

    question = traffic.question()

    def offline(history: "History", now_ns: int) -> "Why":
        return answer(history, now_ns, question, at=at)

    async def online(agent: "pb.TimeTravelServiceStub") -> "pb.Document":
        from cplane.pb.cplane.admin import v1 as pb

        return await agent.why(pb.WhyRequest(traffic=traffic.message(), at=at))

    return ask(session, log, Why, offline=offline, online=online)


def _of_flow(session: Session, log: str | None, uuid: str, flows: tuple[str, ...]) -> "Why":
    from cplane.timetravel.why import Why, why_flow

    if log is not None and not flows:
        raise click.UsageError("flows are not in the log: say with --flows PATH where the one that is meant is")
    flow = flow_in(flows, uuid) if flows else None

    def offline(history: "History", now_ns: int) -> "Why":
        del now_ns
        assert flow is not None, "without an agent, it was read from a file"
        return why_flow(history, flow)

    async def online(agent: "pb.TimeTravelServiceStub") -> "pb.Document":
        import msgspec

        from cplane.pb.cplane.admin import v1 as pb

        given = "" if flow is None else msgspec.json.encode(flow).decode()
        return await agent.why(pb.WhyRequest(flow_uuid=uuid, flow_json=given))

    return ask(session, log, Why, offline=offline, online=online)


def _checked(uuid: str | None) -> str:
    """The uuid, in the form that flows have."""
    if uuid is None:
        return ""
    with suppress(ValueError):
        return str(UUID(uuid))
    raise click.UsageError(f"{uuid!r} is no uuid of a flow; for two ends, write --from, --to and --port")


def _print_across(found: "WhyAcross", output: str) -> None:
    from msgspec import to_builtins

    from cplane.cli.why_text import grown, text_of

    match output:
        case "json":
            click.echo(to_json(to_builtins(found)))
        case "yaml":
            click.echo(to_yaml(to_builtins(found)))
        case "tree":
            click.echo(grown(answer_of(found), parts_of(found)), nl=False)
        case _:
            click.echo(answer_of(found))
            for part in parts_of(found):
                click.echo("\n" + "\n".join(text_of(part, 0)))


def _print(found: "Why", output: str) -> None:
    from msgspec import to_builtins

    from cplane.cli.why_text import lines, tree

    match output:
        case "json":
            click.echo(to_json(to_builtins(found)))
        case "yaml":
            click.echo(to_yaml(to_builtins(found)))
        case "tree":
            click.echo(tree(found), nl=False)
        case _:
            click.echo("\n".join(lines(found)))
