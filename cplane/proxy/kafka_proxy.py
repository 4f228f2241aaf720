"""The Kafka proxy's ports and how connections get in and out.

For each proxy port it listens at 127.0.0.1 and ::1 for connections that the datapath hands over with their original
addresses, and goes on to the broker from the client's own. Everything runs on one asyncio loop; the protocol itself is
in kafka_session.py. The marks make the datapath let the proxy's own connections pass. It needs CAP_NET_ADMIN.
"""

import asyncio
import errno
import resource
import signal
import socket
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from cplane.domain.access import Access
from cplane.proxy.channel import PutKafka
from cplane.proxy.channel_client import ProxyClient
from cplane.proxy.kafka_connection import Connection, Limits
from cplane.proxy.kafka_policy import Policy
from cplane.proxy.kafka_session import TopicIds
from cplane.proxy.sockets import FAMILIES, LOOPBACKS, listen_tcp, to_server
from cplane.telemetry.log import line, logger

CONNECTIONS_MAX: Final = 4096
CONNECTIONS_OF_ONE_MAX: Final = 1024
BACKLOG: Final = 1024
SWEEP_S: Final = 1.0

log = logger("kafka")


class ServedPort:
    """One proxy port: its rules, its listeners, its connections."""

    def __init__(self, put: PutKafka) -> None:
        self.number, self.direction, self.policy = put.port, put.direction, Policy(put)
        self.ids = TopicIds()
        self.servers: list[asyncio.Server] = []
        self.connections: set[Connection] = set()

    def put(self, put: PutKafka) -> None:
        """These rules judge the next request of each connection."""
        self.direction, self.policy = put.direction, Policy(put)

    def close(self) -> None:
        """Nobody is listened to any more."""
        for server in self.servers:
            server.close()
        self.servers.clear()
        for one in tuple(self.connections):
            one.abort("the proxy port is gone")


class KafkaProxy:
    """All ports. `tell` gets what is seen."""

    def __init__(self, tell: Callable[[Access], None], limits: Limits, *, clamp: bool) -> None:
        self._tell, self._limits, self._clamp = tell, limits, clamp
        self._ports: dict[int, ServedPort] = {}
        self._clients: Counter[str] = Counter()
        self._count = 0
        self.closed: Counter[str] = Counter()
        """Why connections were closed, and how many."""

    async def enforce(self, put: Mapping[int, PutKafka], gone: Collection[int]) -> Mapping[int, str]:
        """Rules are in force for the next request; ports that cannot be listened at, and why."""
        for number in gone:
            if (port := self._ports.pop(number, None)) is not None:
                port.close()
        failed: dict[int, str] = {}
        for number, told in put.items():
            port = self._ports.get(number)
            if port is None:
                port = self._ports[number] = ServedPort(told)
            port.put(told)
            if not port.servers and (error := await self._serve(port)):
                failed[number] = error
        return failed

    async def retry(self) -> Mapping[int, str]:
        """Ports that could not be listened at are tried again; each with what is the matter now."""
        return {port.number: await self._serve(port) for port in [*self._ports.values()] if not port.servers}

    def sweep(self, now_s: float) -> None:
        """Connections that take too long are closed. `now_s` is the loop's time."""
        for port in self._ports.values():
            for one in tuple(port.connections):
                one.sweep(now_s)

    def close(self) -> None:
        """All ports are gone."""
        for port in self._ports.values():
            port.close()
        self._ports.clear()

    async def _serve(self, port: ServedPort) -> str:
        loop = asyncio.get_running_loop()
        listeners = []
        try:
            for family in FAMILIES:
                listener = listen_tcp(family, port.number, BACKLOG)
                if listener is not None:
                    listeners.append(listener)
            for listener in listeners:
                made = await loop.create_server(lambda: self._connection(port).client, sock=listener, backlog=BACKLOG)
                port.servers.append(made)
        except OSError as error:
            for server in port.servers:
                server.close()
            port.servers.clear()
            for listener in listeners:
                listener.close()
            return f"cannot listen on proxy port {port.number}: {error.strerror or error}"
        return ""

    def _connection(self, port: ServedPort) -> Connection:
        return Connection(port, self._open, self._closed, self._tell, self._limits, clamp=self._clamp)

    def _open(self, connection: Connection) -> socket.socket:
        """The socket for the connection's way to the broker. Raises OSError where there is to be none."""
        port, ends = connection.port, connection.ends
        if self._count >= CONNECTIONS_MAX or self._clients[ends.client.ip] >= CONNECTIONS_OF_ONE_MAX:
            raise OSError(errno.EMFILE, "too many connections")
        if not ends.client.ip or port.number not in self._ports:
            raise OSError(errno.ENOTCONN, "it has gone already")
        if ends.broker.port == port.number and ends.broker.ip in LOOPBACKS:
            raise OSError(errno.ELOOP, "a connection to the proxy itself")
        made = to_server(socket.SOCK_STREAM, ends.client.ip, port.direction)  # from the client's address
        port.connections.add(connection)
        self._clients[ends.client.ip] += 1
        self._count += 1
        return made

    def _closed(self, connection: Connection, reason: str) -> None:
        port, ends = connection.port, connection.ends
        if connection in port.connections:
            port.connections.discard(connection)
            self._clients[ends.client.ip] -= 1
            self._count -= 1
            if not self._clients[ends.client.ip]:
                del self._clients[ends.client.ip]
        self.closed[reason[:40]] += 1
        log.debug(line("connection closed", address=f"{ends.client.ip}:{ends.client.port}", detail=reason))


async def run(channel: Path, rules: Path, limits: Limits, *, clamp: bool) -> None:
    """Redirections are served until SIGTERM or SIGINT."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * CONNECTIONS_MAX), hard))
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    proxy = KafkaProxy(lambda record: client.seen(record), limits, clamp=clamp)  # noqa: PLW0108  # made below
    client = ProxyClient(PutKafka, channel, rules, proxy.enforce)
    tasks = [asyncio.create_task(client.run()), asyncio.create_task(_sweep(proxy, client))]
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*tasks, stopping):
            task.cancel()
        proxy.close()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def _sweep(proxy: KafkaProxy, client: ProxyClient[PutKafka]) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        proxy.sweep(asyncio.get_running_loop().time())
        for port, error in (await proxy.retry()).items():
            await client.failed(port, error)
