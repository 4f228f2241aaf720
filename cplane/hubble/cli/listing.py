"""`hubble list namespaces`: whose pods had flows of late."""

import json
from typing import TYPE_CHECKING

import click

from cplane.hubble.cli.options import Command, Group, Option, global_options, server_options, settings_of
from cplane.hubble.cli.output import write_out
from cplane.hubble.cli.terminal import escape

if TYPE_CHECKING:
    from cplane.hubble.cli.session import Session
    from cplane.pb.observer import observer_pb2 as pb
    from cplane.transport.client import ClientChannel


@click.group("list", cls=Group)
def listing() -> None:
    """List what the server knows of."""


@listing.command("namespaces", cls=Command)
@click.option(
    "-o",
    "--output",
    cls=Option,
    type=click.Choice(["table", "wide", "json"]),
    default="table",
    show_default=True,
    section="Formatting",
    help="wide shows clusters too.",
)
@server_options
@global_options
@click.pass_context
def namespaces(ctx: click.Context, output: str) -> None:
    """List the namespaces that had flows within the last hour."""
    from functools import partial

    from cplane.hubble.cli.session import open_session

    session = open_session(settings_of(ctx))
    session.call(partial(_show, session, output))


async def _show(session: "Session", output: str, channel: "ClientChannel") -> None:
    from cplane.pb.observer import observer_pb2 as pb

    method = "/observer.Observer/GetNamespaces"
    answer = await session.unary(channel, method, pb.GetNamespacesRequest(), pb.GetNamespacesResponse)
    write_out(render(answer, output))


def render(answer: "pb.GetNamespacesResponse", output: str) -> str:
    """The namespaces in a format of `-o`."""
    from cplane.hubble.cli.jsonpb import Writer
    from cplane.hubble.cli.printer import columns

    if output == "json":
        writer = Writer()
        shown = [json.loads(writer.message(one)) for one in answer.namespaces]
        return f"{json.dumps(shown, indent=2)}\n"
    names = [(escape(one.namespace), escape(one.cluster)) for one in answer.namespaces]
    rows = [("NAMESPACE", "CLUSTER"), *names]
    return columns([list(row) if output == "wide" else [row[0]] for row in rows])
