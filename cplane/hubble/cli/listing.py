"""`hubble list nodes` and `hubble list namespaces`: what an observer or a relay knows of."""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import click

from cplane.hubble.cli.durations import duration
from cplane.hubble.cli.options import Command, Group, Option, global_options, server_options, settings_of
from cplane.hubble.cli.output import write_out
from cplane.hubble.cli.terminal import escape

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from cplane.hubble.cli.session import Session
    from cplane.pb.observer import observer_pb2 as pb
    from cplane.transport.client import ClientChannel

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., object])

_NS: Final = 1_000_000_000
_UNKNOWN: Final = "N/A"
_WIDE: Final = ("VERSION", "ADDRESS", "TLS")


class _Listing(Group):
    """Knows the short names too."""

    aliases: Final = {"node": "nodes", "namespace": "namespaces", "ns": "namespaces"}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, long or short."""
        return super().get_command(ctx, self.aliases.get(cmd_name, cmd_name))


def _output_option(wide: str) -> Callable[[AnyCommand], AnyCommand]:
    return click.option(
        "-o",
        "--output",
        cls=Option,
        type=click.Choice(["table", "wide", "json", "jsonpb"], case_sensitive=False),
        default="table",
        show_default=True,
        section="Formatting",
        help=f"wide shows {wide} too; json is a list, jsonpb the answer on one line.",
    )


@click.group("list", cls=_Listing)
def listing() -> None:
    """List what the server knows of."""


@listing.command("nodes", cls=Command)
@_output_option("versions, addresses and TLS")
@server_options
@global_options
@click.pass_context
def nodes(ctx: click.Context, output: str) -> None:
    """List the nodes that a relay asks, and how they are (short: node)."""
    from functools import partial

    from cplane.hubble.cli.session import open_session

    session = open_session(settings_of(ctx))
    session.call(partial(_show_nodes, session, output))


async def _show_nodes(session: "Session", output: str, channel: "ClientChannel") -> None:
    from cplane.pb.observer import observer_pb2 as pb

    answer = await session.unary(channel, "/observer.Observer/GetNodes", pb.GetNodesRequest(), pb.GetNodesResponse)
    write_out(render_nodes(answer, output))


@listing.command("namespaces", cls=Command)
@_output_option("clusters")
@server_options
@global_options
@click.pass_context
def namespaces(ctx: click.Context, output: str) -> None:
    """List the namespaces that had flows within the last hour (short: namespace, ns)."""
    from functools import partial

    from cplane.hubble.cli.session import open_session

    session = open_session(settings_of(ctx))
    session.call(partial(_show_namespaces, session, output))


async def _show_namespaces(session: "Session", output: str, channel: "ClientChannel") -> None:
    from cplane.pb.observer import observer_pb2 as pb

    method = "/observer.Observer/GetNamespaces"
    answer = await session.unary(channel, method, pb.GetNamespacesRequest(), pb.GetNamespacesResponse)
    write_out(render_namespaces(answer, output))


def render_nodes(answer: "pb.GetNodesResponse", output: str) -> str:
    """The nodes in a format of `-o`."""
    if output in {"json", "jsonpb"}:
        return _json(answer, answer.nodes, output)
    wide = output == "wide"
    header = ["NAME", "STATUS", "AGE", "FLOWS/S", "CURRENT/MAX-FLOWS", *(_WIDE if wide else ())]
    return _columns([header, *(_node_cells(one, wide=wide) for one in answer.nodes)])


def _node_cells(one: "pb.Node", *, wide: bool) -> list[str]:
    seconds = (one.uptime_ns + _NS // 2) // _NS
    cells = [
        escape(one.name),
        _state(one.state),
        duration(seconds * _NS) if seconds else _UNKNOWN,
        f"{one.seen_flows / seconds:.2f}" if seconds else _UNKNOWN,
        f"{one.num_flows}/{one.max_flows} ({one.num_flows / one.max_flows:7.2%})" if one.max_flows else _UNKNOWN,
    ]
    if wide:
        tls = "Enabled" if one.tls.enabled else "Disabled"
        cells += [escape(one.version) or _UNKNOWN, escape(one.address) or _UNKNOWN, tls]
    return cells


def _state(number: int) -> str:
    from cplane.pb.relay import relay_pb2

    words = {
        relay_pb2.NODE_CONNECTED: "Connected",
        relay_pb2.NODE_UNAVAILABLE: "Unavailable",
        relay_pb2.NODE_GONE: "Gone",
        relay_pb2.NODE_ERROR: "Error",
    }
    return {int(state): word for state, word in words.items()}.get(number, "Unknown")


def render_namespaces(answer: "pb.GetNamespacesResponse", output: str) -> str:
    """The namespaces in a format of `-o`."""
    if output in {"json", "jsonpb"}:
        return _json(answer, answer.namespaces, output)
    names = [(escape(one.namespace), escape(one.cluster)) for one in answer.namespaces]
    rows = [("NAMESPACE", "CLUSTER"), *names]
    return _columns([list(row) if output == "wide" else [row[0]] for row in rows])


def _json(answer: "Message", listed: "Sequence[Message]", output: str) -> str:
    from cplane.hubble.cli.jsonpb import Writer

    writer = Writer()
    if output == "jsonpb":
        return f"{writer.message(answer)}\n"
    return f"{json.dumps([json.loads(writer.message(one)) for one in listed], indent=2)}\n"


def _columns(rows: list[list[str]]) -> str:
    from cplane.hubble.cli.printer import columns

    return columns(rows)
