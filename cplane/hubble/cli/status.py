"""`hubble status`: whether the server is well, and how much it has seen."""

from typing import TYPE_CHECKING, Final

import click

from cplane.hubble.cli.durations import duration
from cplane.hubble.cli.failure import Failed
from cplane.hubble.cli.options import Command, Option, global_options, server_options, settings_of
from cplane.hubble.cli.output import write_out
from cplane.hubble.cli.terminal import escape

if TYPE_CHECKING:
    from cplane.hubble.cli.session import Session
    from cplane.pb.observer import observer_pb2 as pb
    from cplane.transport.client import ClientChannel

_SERVICE: Final = "observer.Observer"
_NS: Final = 1_000_000_000


@click.command(cls=Command)
@click.option(
    "-o",
    "--output",
    cls=Option,
    type=click.Choice(["compact", "dict", "json", "jsonpb", "table", "tab"], case_sensitive=False),
    default="compact",
    show_default=True,
    section="Formatting",
    help="json is short for jsonpb, tab for table.",
)
@server_options
@global_options
@click.pass_context
def status(ctx: click.Context, output: str) -> None:
    """Show whether the server is well, and how many flows it has."""
    from functools import partial

    from cplane.hubble.cli.session import open_session

    session = open_session(settings_of(ctx))
    session.call(partial(_show, session, output))


async def _show(session: "Session", output: str, channel: "ClientChannel") -> None:
    from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

    from cplane.pb.observer import observer_pb2 as pb

    health = await session.unary(
        channel,
        "/grpc.health.v1.Health/Check",
        HealthCheckRequest(service=_SERVICE),
        HealthCheckResponse,
        failing="failed getting status: ",
    )
    well = health.status == HealthCheckResponse.SERVING
    if output == "compact":
        word = "Ok" if well else f"Unavailable: {HealthCheckResponse.ServingStatus.Name(health.status)}"
        write_out(f"Healthcheck (via {session.server}): {word}\n")
    if not well:
        raise Failed("not healthy")
    answer = await session.unary(
        channel,
        f"/{_SERVICE}/ServerStatus",
        pb.ServerStatusRequest(),
        pb.ServerStatusResponse,
        failing="failed to get hubble server status: ",
    )
    write_out(render(answer, output))


def render(answer: "pb.ServerStatusResponse", output: str) -> str:
    """The status in a format of `-o`."""
    match output:
        case "compact":
            return _compact(answer)
        case "json" | "jsonpb":
            from cplane.hubble.cli.jsonpb import Writer

            return f"{Writer().message(answer)}\n"
    cells = _cells(answer)
    if output == "dict":
        short = {"NUM UNAVAILABLE NODES": "NUM UNAVAIL. NODES"}
        return "".join(f"{short.get(name, name):>19}: {cell}\n" for name, cell in cells.items())
    from cplane.hubble.cli.printer import columns

    return columns([list(cells), list(cells.values())])


def _cells(answer: "pb.ServerStatusResponse") -> dict[str, str]:
    counts = {
        name: str(getattr(answer, name).value) if answer.HasField(name) else "N/A"
        for name in ("num_connected_nodes", "num_unavailable_nodes")  # of relays only
    }
    return {
        "NUM FLOWS": f"{answer.num_flows:,}",
        "MAX FLOWS": f"{answer.max_flows:,}",
        "SEEN FLOWS": f"{answer.seen_flows:,}",
        "FLOWS PER SECOND": f"{answer.flows_rate:.2f}" if answer.flows_rate > 0 else "N/A",
        "UPTIME": duration(answer.uptime_ns),
        "NUM CONNECTED NODES": counts["num_connected_nodes"],
        "NUM UNAVAILABLE NODES": counts["num_unavailable_nodes"],
        "VERSION": escape(answer.version),
    }


def _compact(answer: "pb.ServerStatusResponse") -> str:
    share = f" ({answer.num_flows / answer.max_flows:.2%})" if answer.max_flows else ""
    rate = f"{answer.flows_rate:.2f}" if answer.flows_rate > 0 else "N/A"
    if rate == "N/A" and answer.uptime_ns:
        rate = f"{answer.seen_flows * _NS / answer.uptime_ns:.2f}"
    lines = [f"Current/Max Flows: {answer.num_flows:,}/{answer.max_flows:,}{share}", f"Flows/s: {rate}"]
    unavailable = answer.num_unavailable_nodes.value
    if answer.HasField("num_connected_nodes"):
        connected = answer.num_connected_nodes.value
        total = f"/{connected + unavailable}" if answer.HasField("num_unavailable_nodes") else ""
        lines.append(f"Connected Nodes: {connected}{total}")
    if unavailable:
        names = sorted(map(escape, answer.unavailable_nodes))
        lines.append(f"Unavailable Nodes: {unavailable}")
        lines += [f"  - {name}" for name in names]
        if names and unavailable > len(names):
            lines.append(f"  - and {unavailable - len(names)} more...")
    return "".join(f"{line}\n" for line in lines)
