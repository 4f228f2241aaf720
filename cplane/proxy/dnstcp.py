"""DNS over TCP: a connection to the server for each of the client's; questions and answers pass one by one."""

import asyncio
import socket
from collections import Counter, OrderedDict
from contextlib import suppress
from typing import Final

from cplane.domain.access import Address
from cplane.proxy.dnsrules import Rules
from cplane.proxy.dnsserving import Exchange, Serving
from cplane.proxy.dnswire import BadMessage, id_of, read_answer, read_query, refusal
from cplane.proxy.sockets import FAMILIES, LOOPBACKS, listen_tcp, to_server

_BACKLOG: Final = 128
_ASKED_MAX: Final = 128  # questions of a connection whose answers are known; a further one ends it
_IDLE_S: Final = 30.0
_LENGTH: Final = 2
_READ_MAX: Final = 1 << 17  # bytes that wait to be read; a message has 64 KiB
_LINGER_S: Final = 1.0


class TcpPort:
    """One proxy port: its sockets, and the connections that came in there."""

    def __init__(self, rules: Rules, serving: "TcpServing") -> None:
        self.rules, self._serving = rules, serving
        self.sockets = [one for family in FAMILIES if (one := listen_tcp(family, rules.port, _BACKLOG)) is not None]
        for one in self.sockets:
            asyncio.get_running_loop().add_reader(one, self._readable, one)

    def close(self) -> None:
        """Nobody is served here any more; connections end as they find no rules."""
        for one in self.sockets:
            asyncio.get_running_loop().remove_reader(one)
            one.close()

    def _readable(self, sock: socket.socket) -> None:
        try:
            connection, source = sock.accept()
        except OSError:
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = connection.getsockname()
        if server[0] in LOOPBACKS:  # it was sent here, and not handed over: the server would be this proxy
            self._serving.shared.counts["nowhere"] += 1
            connection.close()
            return
        self._serving.accepted(connection, self, Address(source[0], source[1]), Address(server[0], server[1]))


class TcpServing:
    """All connections."""

    def __init__(self, shared: Serving) -> None:
        self.shared = shared
        self._tasks: dict[asyncio.Task[None], TcpPort] = {}
        self._of_client: Counter[str] = Counter()

    def accepted(self, connection: socket.socket, port: TcpPort, client: Address, server: Address) -> None:
        """A client is there; one too many is turned away."""
        settings = self.shared.settings
        if len(self._tasks) >= settings.connections or self._of_client[client.ip] >= settings.of_client:
            self.shared.counts["too_many"] += 1
            connection.close()
            return
        self._of_client[client.ip] += 1
        task = asyncio.get_running_loop().create_task(self._serve(connection, port, client, server))
        self._tasks[task] = port
        task.add_done_callback(self._done)

    def end(self, port: TcpPort) -> None:
        """The port is gone, and its connections with it."""
        for task, one in list(self._tasks.items()):
            if one is port:
                task.cancel()

    def close(self) -> None:
        """All connections end."""
        for task in list(self._tasks):
            task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and task.exception() is not None:
            raise AssertionError("a connection of DNS ended by a mistake") from task.exception()

    async def _serve(self, connection: socket.socket, port: TcpPort, client: Address, server: Address) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=connection, limit=_READ_MAX)
            try:
                await _Connection(self.shared, port, client, server, reader, writer).run()
            finally:
                writer.close()
        except (OSError, asyncio.IncompleteReadError, TimeoutError, BadMessage):
            self.shared.counts["connections_ended"] += 1
        finally:
            self._of_client[client.ip] -= 1
            if not self._of_client[client.ip]:
                del self._of_client[client.ip]


class _Connection:
    """A client's connection, and the one to the server, which is made when something may be asked."""

    def __init__(
        self,
        shared: Serving,
        port: TcpPort,
        client: Address,
        server: Address,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._shared, self._port, self._client, self._server = shared, port, client, server
        self._reader, self._writer = reader, writer
        self._upstream: asyncio.StreamWriter | None = None
        self._answers: asyncio.Task[None] | None = None
        self._asked: OrderedDict[int, Exchange] = OrderedDict()

    async def run(self) -> None:
        """Questions are served until the client has no more, and those that were asked are answered."""
        try:
            while (data := await self._receive(self._reader)) is not None:
                await self._question(data)
            if self._upstream is not None and self._answers is not None:
                with suppress(OSError):
                    self._upstream.write_eof()
                await asyncio.wait({self._answers}, timeout=self._shared.settings.patience_s)
        finally:
            if self._answers is not None:
                self._answers.cancel()
                with suppress(asyncio.CancelledError, OSError, asyncio.IncompleteReadError, TimeoutError, BadMessage):
                    await self._answers
            if self._upstream is not None:
                self._upstream.close()

    async def _question(self, data: bytes) -> None:
        """Raises BadMessage for what is no question: then nothing that follows can be trusted to be one."""
        reject = self._shared.settings.reject
        try:
            query = read_query(data)
        except BadMessage as error:
            self._shared.counts["garbage"] += 1
            if not error.answerable:
                raise
            await self._send(refusal(data, reject))
            return
        exchange = self._shared.judge(query, self._port.rules, self._client, self._server, socket.IPPROTO_TCP)
        if exchange is None:
            await self._send(refusal(data, reject, query))
            return
        number = id_of(data)
        if len(self._asked) >= _ASKED_MAX and number not in self._asked:
            self._asked.popitem(last=False)  # one that is answered already, or that nobody answers
        self._asked[number] = exchange
        if self._upstream is None:
            await self._connect()
        assert self._upstream is not None, "a connection was made"
        self._upstream.write(len(data).to_bytes(_LENGTH) + data)
        await self._upstream.drain()

    async def _connect(self) -> None:
        made = to_server(socket.SOCK_STREAM, self._client.ip, self._port.rules.direction)
        try:
            async with asyncio.timeout(self._shared.settings.patience_s):
                await asyncio.get_running_loop().sock_connect(made, self._server)
        except BaseException:
            made.close()
            raise
        reader, self._upstream = await asyncio.open_connection(sock=made, limit=_READ_MAX)
        self._answers = asyncio.get_running_loop().create_task(self._relay(reader))

    async def _relay(self, reader: asyncio.StreamReader) -> None:
        """Answers reach the client until the server ends; then the client's connection ends, too."""
        try:
            while (data := await self._receive(reader)) is not None:
                number = id_of(data)
                exchange = self._asked.get(number)
                if exchange is None:
                    self._shared.counts["unasked"] += 1
                    continue
                try:
                    answer = read_answer(data, exchange.query, number)
                except BadMessage:
                    self._shared.counts["unasked"] += 1
                    continue
                told = self._shared.answered(exchange, answer)
                if told is not None:
                    await self._shared.learned(told)
                await self._send(data)
        finally:
            self._writer.close()  # and its reader ends

    async def _send(self, data: bytes) -> None:
        self._writer.write(len(data).to_bytes(_LENGTH) + data)
        async with asyncio.timeout(self._shared.settings.patience_s):
            await self._writer.drain()

    async def _receive(self, reader: asyncio.StreamReader) -> bytes | None:
        """The next message; None: there is no more."""
        try:
            async with asyncio.timeout(_IDLE_S):
                length = int.from_bytes(await reader.readexactly(_LENGTH))
                return await reader.readexactly(length)
        except (asyncio.IncompleteReadError, TimeoutError):
            return None
