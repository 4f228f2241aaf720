"""Follows the peer service: who the peers are, for as long as the relay runs."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import anyio
from google.protobuf.message import DecodeError
from grpclib.const import Cardinality

from cplane.hubble.calls import Clock
from cplane.hubble.relay.dial import FAILURES, Dialer, told
from cplane.hubble.relay.directory import Directory
from cplane.hubble.relay.pool import Pool
from cplane.hubble.relay.scan import Garbage
from cplane.pb.peer import peer_pb2
from cplane.telemetry.log import Log, line
from cplane.transport.backoff import Backoff
from cplane.transport.batches import batches
from cplane.transport.client import ClientChannel, Unreachable

_NS: Final = 1_000_000_000
_SETTLED_S: Final = 30.0  # after which a peer service has told all of its peers


class Notified:
    """Keeps the pool's peers those of the peer service at `address`. While it is away they stay what they were."""

    def __init__(
        self, address: str, server_name: str, directory: Directory, pool: Pool, dialer: Dialer, clock: Clock, log: Log
    ) -> None:
        self._address, self._server_name = address, server_name
        self._directory, self._pool, self._dialer = directory, pool, dialer
        self._clock, self._log = clock, log
        self._reason = ""
        self.heard = False  # whether the peer service answers now

    async def run(self, chance: Callable[[], float]) -> None:
        """The peer service is followed until this is cancelled."""
        backoff = Backoff(self._dialer.retry_s)
        while True:
            began_ns = self._clock.monotonic_ns()
            reason = await self._follow()
            if self.heard or reason != self._reason:  # one line for a service that stays away
                self._log.warning(line("peer service unavailable", address=self._address, error=reason))
            self._reason, self.heard = reason, False
            self._pool.changed.notify()
            await anyio.sleep(backoff.after((self._clock.monotonic_ns() - began_ns) / _NS, chance()))

    async def _follow(self) -> str:
        """One connection; why it ended."""
        reasons: list[str] = []
        try:
            async with (
                self._dialer.dialed(self._address, self._server_name) as channel,
                anyio.create_task_group() as tasks,
            ):

                async def ended(work: Callable[[], Any]) -> None:  # Any: nothing is made of what it gives
                    try:
                        await work()
                    except FAILURES as error:
                        reasons.append(told(error))
                    tasks.cancel_scope.cancel()

                tasks.start_soon(ended, partial(self._read, channel))
                tasks.start_soon(ended, partial(self._dialer.watch, channel, anyio.sleep_forever))
                tasks.start_soon(self._sweep)
        except FAILURES as error:
            reasons.append(told(error))
        return reasons[0] if reasons else "it ended the stream"

    async def _read(self, channel: ClientChannel) -> None:
        """Take in what is told. Raises one of FAILURES."""
        call = channel.request(
            "/peer.Peer/Notify", Cardinality.UNARY_STREAM, peer_pb2.NotifyRequest, peer_pb2.ChangeNotification
        )
        async with call as stream:
            await stream.send_message(peer_pb2.NotifyRequest(), end=True)
            await self._dialer.within(self._address, stream.recv_initial_metadata)
            self._directory.begin()
            self.heard = True
            self._log.info(line("peer service connected", address=self._address))
            self._pool.changed.notify()
            async for messages in batches(stream):
                changes = [self._directory.apply(_decoded(message)) for message in messages]
                if any(changes):
                    self._pool.follow(self._directory.peers)
        raise Unreachable(self._address, "it ended the stream")

    async def _sweep(self) -> None:
        """Peers that left while the service was away are dropped, unless they answer: then nothing is wrong."""
        await anyio.sleep(_SETTLED_S)
        gone = self._directory.untold() - self._pool.connected.keys()
        if self._directory.drop(gone):
            self._log.info(line("peers gone", address=self._address, entries=len(gone)))
            self._pool.follow(self._directory.peers)


def _decoded(message: bytes) -> peer_pb2.ChangeNotification:
    try:
        return peer_pb2.ChangeNotification.FromString(message)
    except DecodeError as error:
        raise Garbage(str(error)) from error
