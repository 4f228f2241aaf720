"""`hubble watch peers`: the nodes that an agent knows, and what becomes of them."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import click

from cplane.hubble.cli.options import Command, Group, global_options, server_options, settings_of
from cplane.hubble.cli.output import write_out
from cplane.hubble.cli.terminal import escape

if TYPE_CHECKING:
    from cplane.pb.peer import peer_pb2

_NOTIFY: Final = "/peer.Peer/Notify"


class _Watching(Group):
    """Knows the short name too."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, long or short."""
        return super().get_command(ctx, "peers" if cmd_name == "peer" else cmd_name)


@click.group("watch", cls=_Watching)
def watch() -> None:
    """Watch what changes."""


@watch.command("peers", cls=Command)
@server_options
@global_options
@click.pass_context
def peers(ctx: click.Context) -> None:
    """Show the peers of an agent, and go on with changes until interrupted (short: peer)."""
    from functools import partial

    from google.protobuf.message import DecodeError

    from cplane.hubble.cli.failure import Failed
    from cplane.hubble.cli.session import open_session
    from cplane.hubble.cli.streaming import stream_to
    from cplane.pb.peer import peer_pb2

    def show(notifications: Iterable[bytes]) -> None:
        write_out("".join(line(peer_pb2.ChangeNotification.FromString(data)) for data in notifications))

    session = open_session(settings_of(ctx))
    request, response = peer_pb2.NotifyRequest(), peer_pb2.ChangeNotification
    try:
        session.call(partial(stream_to, show, session, _NOTIFY, request, response))
    except DecodeError as error:
        raise Failed(f"the server sent what cannot be shown: {error}") from None


def line(change: "peer_pb2.ChangeNotification") -> str:
    """What became of a peer."""
    from cplane.pb.peer import peer_pb2

    names = {value: name for name, value in peer_pb2.ChangeNotificationType.items()}
    tls = f" (TLS.ServerName: {escape(change.tls.server_name)})" if change.HasField("tls") else ""
    kind = names.get(change.type, str(change.type))
    return f"{kind:<12} {escape(change.address)} {escape(change.name)}{tls}\n"
