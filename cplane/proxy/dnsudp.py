"""DNS over UDP: each question goes on from a socket of its own.

So who would answer in the server's place has to guess its port and its number.
"""

import asyncio
import secrets
import select
import socket
import time
from collections import Counter
from contextlib import suppress
from typing import Final

from cplane.domain.access import Address
from cplane.domain.verdict import Direction
from cplane.proxy.dnsnames import Told
from cplane.proxy.dnsrules import Rules
from cplane.proxy.dnsserving import Exchange, Serving
from cplane.proxy.dnssockets import Answering, asked_at, listen_udp
from cplane.proxy.dnswire import (
    MESSAGE_MAX,
    QUERY_MAX,
    SERVFAIL,
    Answer,
    BadMessage,
    Query,
    id_of,
    in_one_packet,
    read_answer,
    read_query,
    refusal,
    with_id,
)
from cplane.proxy.sockets import FAMILIES, LOOPBACKS, to_server

_AT_ONCE: Final = 64  # datagrams of one socket, before others have their turn
_ANCILLARY: Final = 128
_KNOWN_MAX: Final = 4096  # questions, and answers, that are not read again
_KNOWN_BYTES: Final = 512
_NO_ANSWER: Final = (b"", Answer(0))


class _Pending:
    """A question that a server has not answered yet."""

    __slots__ = ("data", "exchange", "key", "number", "socket", "until")

    def __init__(self, key: tuple[Address, Address, int, bytes], exchange: Exchange, number: int, until: float) -> None:
        self.key, self.exchange, self.number, self.until = key, exchange, number, until
        self.data = b""  # as it is asked
        self.socket: socket.socket


class UdpPort:
    """One proxy port: its sockets, and what came in there."""

    def __init__(self, rules: Rules, serving: "UdpServing") -> None:
        self.rules, self._serving = rules, serving
        self.sockets = [one for family in FAMILIES if (one := listen_udp(family, rules.port)) is not None]
        for one in self.sockets:
            asyncio.get_running_loop().add_reader(one, self._readable, one)

    def close(self) -> None:
        """Nobody is served here any more."""
        for one in self.sockets:
            asyncio.get_running_loop().remove_reader(one)
            one.close()

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, ancillary, _, source = sock.recvmsg(QUERY_MAX + 1, _ANCILLARY)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # of an earlier packet
                continue
            server = asked_at(ancillary)
            if server is None or server.ip in LOOPBACKS:  # it was sent here, and not handed over
                self._serving.shared.counts["nowhere"] += 1
                continue
            self._serving.asked(data, self.rules, Address(source[0], source[1]), server)


class UdpServing:
    """All questions over UDP."""

    def __init__(self, shared: Serving) -> None:
        self.shared = shared
        self._pending: dict[tuple[Address, Address, int, bytes], _Pending] = {}  # oldest first
        self._of_client: Counter[str] = Counter()
        self._known: dict[bytes, Query] = {}
        self._answers: dict[bytes, tuple[bytes, Answer]] = {}  # with the question that they answer
        self._answering = {int(one): Answering(one) for one in Direction}
        self._waiting: set[asyncio.Task[None]] = set()
        self._epoll = select.epoll()  # of all sockets that wait: the loop's own takes five times as long for each
        self._by_file: dict[int, _Pending] = {}
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._answerable)

    def asked(self, data: bytes, rules: Rules, client: Address, server: Address) -> None:
        """A datagram came: it is answered, or goes on to the server, or is dropped and counted."""
        counts = self.shared.counts
        try:
            query = self._read(data)
        except BadMessage as error:
            counts["garbage"] += 1
            if error.answerable:
                self._send(refusal(data, self.shared.settings.reject), rules, server, client)
            return
        key = (client, server, id_of(data), query.section)
        pending = self._pending.get(key)
        if pending is not None and rules.allowing(query.name) is not None:
            counts["repeated"] += 1
            with suppress(OSError):
                pending.socket.send(pending.data)
            return
        exchange = self.shared.judge(query, rules, client, server, socket.IPPROTO_UDP)
        if exchange is None:
            self._send(refusal(data, self.shared.settings.reject, query), rules, server, client)
            return
        settings = self.shared.settings
        if len(self._pending) >= settings.concurrent or self._of_client[client.ip] >= settings.of_client:
            counts["too_many"] += 1
            return
        self._ask(data, key, exchange)

    def _read(self, data: bytes) -> Query:
        """The question; most are asked again and again. Raises BadMessage."""
        query = self._known.get(data[2:])
        if query is None:
            query = read_query(data)
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            if len(data) <= _KNOWN_BYTES:
                self._known[data[2:]] = query
        return query

    def _read_answer(self, data: bytes, query: Query, number: int) -> Answer:
        """What the message answers; many come again within the second, with the same lifetimes. Raises BadMessage."""
        section, answer = self._answers.get(data[2:], _NO_ANSWER)
        if section == query.section and id_of(data) == number:
            return answer
        answer = read_answer(data, query, number)
        if len(data) <= _KNOWN_BYTES:
            if len(self._answers) >= _KNOWN_MAX:
                self._answers.clear()
            self._answers[data[2:]] = query.section, answer
        return answer

    def _ask(self, data: bytes, key: tuple[Address, Address, int, bytes], exchange: Exchange) -> None:
        """The server is asked under another number: the client's is known to the client, and to whom it tells it."""
        until = time.monotonic() + self.shared.settings.patience_s
        pending = _Pending(key, exchange, secrets.randbits(16), until)
        pending.data = with_id(in_one_packet(data, exchange.query), pending.number)
        try:
            made = to_server(socket.SOCK_DGRAM, exchange.client.ip, exchange.rules.direction)
        except OSError:
            self.shared.counts["no_socket"] += 1
            return
        pending.socket = made
        try:
            made.connect(exchange.server)
            made.send(pending.data)
        except OSError:
            made.close()
            self._fail(pending)
            return
        self._pending[key] = pending
        self._of_client[exchange.client.ip] += 1
        number = made.fileno()
        self._by_file[number] = pending
        self._epoll.register(number, select.EPOLLIN)

    def _answerable(self) -> None:
        for number, _ in self._epoll.poll(0, _AT_ONCE):
            pending = self._by_file.get(number)
            if pending is not None:
                self._readable(pending)

    def _readable(self, pending: _Pending) -> None:
        try:
            data = pending.socket.recv(MESSAGE_MAX)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # nobody is there: the client should not wait
            self._end(pending)
            self._fail(pending)
            return
        try:
            answer = self._read_answer(data, pending.exchange.query, pending.number)
        except BadMessage:
            self.shared.counts["unasked"] += 1
            return
        self._end(pending)
        told = self.shared.answered(pending.exchange, answer)
        data = with_id(data, pending.key[2])
        if told is None:
            self._answer(data, pending.exchange)
            return
        task = asyncio.get_running_loop().create_task(self._release(pending.exchange, data, told))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _release(self, exchange: Exchange, data: bytes, told: Told) -> None:
        await self.shared.learned(told)
        self._answer(data, exchange)

    def _end(self, pending: _Pending) -> None:
        del self._by_file[pending.socket.fileno()]
        pending.socket.close()  # epoll forgets it
        del self._pending[pending.key]
        client = pending.exchange.client.ip
        self._of_client[client] -= 1
        if not self._of_client[client]:
            del self._of_client[client]

    def _fail(self, pending: _Pending) -> None:
        self.shared.counts["unreachable"] += 1
        asked = with_id(pending.data, pending.key[2])
        self._answer(refusal(asked, SERVFAIL, pending.exchange.query), pending.exchange)

    def _answer(self, data: bytes, exchange: Exchange) -> None:
        self._send(data, exchange.rules, exchange.server, exchange.client)

    def _send(self, data: bytes, rules: Rules, server: Address, client: Address) -> None:
        try:
            self._answering[rules.direction].send(data, server, client)
        except (OSError, KeyError):
            self.shared.counts["not_sent"] += 1

    def expire(self) -> None:
        """Servers that have not answered in time are not waited for any more."""
        now = time.monotonic()
        while self._pending:
            oldest = next(iter(self._pending.values()))
            if oldest.until > now:
                return
            self.shared.counts["unanswered"] += 1
            self._end(oldest)

    def close(self) -> None:
        """Nobody waits for an answer any more."""
        for pending in list(self._pending.values()):
            self._end(pending)
        for one in self._answering.values():
            one.close()
        asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        self._epoll.close()
