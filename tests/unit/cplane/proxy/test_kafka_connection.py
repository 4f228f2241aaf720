"""Connections through the proxy on real sockets: what is not Kafka ends them, and nobody can make them hold much."""

import asyncio
import random
import socket
import struct
import time
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from cplane.domain.access import Access
from cplane.domain.verdict import Verdict
from cplane.proxy.kafka_connection import Connection, Held, Inbox, Limits
from tests.support.kafka_messages import Port, answer, ask, framed, head, make, replied, reply, rule

pytestmark = pytest.mark.anyio

PRODUCE_1 = rule(0, 3, 18, topic="topic1")


@pytest.fixture
def anyio_backend():
    return "asyncio"


def produce(topic="topic1", size=10, acks=1):
    data = [{"name": topic, "partition_data": [{"index": 0, "records": bytes(size)}]}]
    return make(0, 9, acks=acks, topic_data=data)


class Broker:
    """Answers each request with `answers`, which gets the frame; reads nothing while `reads` is not set."""

    def __init__(self):
        self.requests, self.answers, self.reads = [], self.answered, asyncio.Event()
        self.reads.set()
        self.open = 0

    def answered(self, frame):
        return reply(answer(0, 9), int.from_bytes(frame[8:12]))

    async def serve(self, reader, writer):
        self.open += 1
        try:
            while True:
                await self.reads.wait()
                length = await reader.readexactly(4)
                frame = length + await reader.readexactly(int.from_bytes(length))
                self.requests.append(frame)
                made = self.answers(frame)
                if made is None:
                    break
                writer.write(made)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


class Proxy:
    def __init__(self, limits, *rules, everything=False):
        self.port = Port(*rules, everything=everything)
        self.port.connections = set()
        self.limits, self.address, self.closed = limits, None, []
        self.records: list[Access] = []

    def connection(self):
        return Connection(self.port, self.open, self.over, self.records.append, self.limits, clamp=True)

    def open(self, connection):
        self.port.connections.add(connection)
        connection.ends = connection.ends._replace(broker=connection.ends.broker._replace(port=self.broker_port))
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        return made

    def over(self, connection, reason):
        self.port.connections.discard(connection)
        self.closed.append(reason)

    def sweep(self, later_s=0.0):
        for one in tuple(self.port.connections):
            one.sweep(asyncio.get_running_loop().time() + later_s)


@asynccontextmanager
async def proxied(*rules, limits=None, everything=False, broker=True):
    """A broker, a proxy before it, and where the proxy listens."""
    here, proxy = Broker(), Proxy(limits or Limits(), *rules, everything=everything)
    async with await asyncio.start_server(here.serve, "127.0.0.1", 0, limit=1 << 20) as upstream:
        proxy.broker_port = upstream.sockets[0].getsockname()[1]
        if not broker:
            upstream.close()
            await upstream.wait_closed()
        server = await asyncio.get_running_loop().create_server(lambda: proxy.connection().client, "127.0.0.1", 0)
        proxy.listens = server.sockets[0].getsockname()[1]
        async with server:
            yield here, proxy
            for one in tuple(proxy.port.connections):
                one.abort("the test is over")
            await until(lambda: not proxy.port.connections and not here.open)
    assert Held.total == 0


async def until(condition, timeout_s=5.0):
    with anyio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110  # nobody tells
            await anyio.sleep(0.005)


@asynccontextmanager
async def client(proxy):
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.listens, limit=1 << 26)
    try:
        yield reader, writer
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass


async def receive(reader):
    with anyio.fail_after(5):
        length = await reader.readexactly(4)
        return length + await reader.readexactly(int.from_bytes(length))


async def ended(reader):
    """What came before the end."""
    with anyio.fail_after(5):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


async def test_requests_and_answers_pass():
    async with proxied(PRODUCE_1) as (broker, proxy), client(proxy) as (reader, writer):
        for number in range(50):
            writer.write(ask(produce(), number))
            assert await receive(reader) == reply(answer(0, 9), number)
        assert broker.requests == [ask(produce(), number) for number in range(50)]


async def test_pipelined_requests_are_answered_in_order_though_some_are_refused():
    async with proxied(PRODUCE_1) as (_, proxy), client(proxy) as (reader, writer):
        count = 1000  # more than wait at once
        writer.write(b"".join(ask(produce("topic1" if n % 3 else "secret"), n) for n in range(count)))
        for number in range(count):
            got = await receive(reader)
            assert int.from_bytes(got[4:8]) == number
            assert bool(replied(got, 0, 9, number).responses) == (number % 3 == 0)


async def test_bytes_may_come_one_by_one():
    async with proxied(PRODUCE_1) as (_, proxy), client(proxy) as (reader, writer):
        for byte in ask(produce(), 1):
            writer.write(bytes([byte]))
            await writer.drain()
            await anyio.lowlevel.checkpoint()
        assert await receive(reader) == reply(answer(0, 9), 1)


@pytest.mark.parametrize("size", [60_000, 1 << 20, 5 << 20])
async def test_large_requests_and_answers_pass(size):
    async with proxied(everything=True) as (broker, proxy), client(proxy) as (reader, writer):
        broker.answers = lambda frame: frame[:4] + frame[8:12] + frame[8:]
        for number in range(3):
            frame = ask(produce(size=size), number)
            writer.write(frame)
            assert len(await receive(reader)) == len(frame)
            assert broker.requests[-1] == frame


GARBAGE = [
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    (1 << 25).to_bytes(4),
    b"\0\0\0\0",
    b"\0\0\0\1\0",
    b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600),
    framed(b"\xff" * 30),
    framed(head(0, 9, flexible=True) + b"\xff" * 30),
    framed(head(3, 1) + b"\x7f\xff\xff\xff"),
    framed(head(3, 12, flexible=True) + b"\xff\xff\xff\xff\x0f"),
]


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_garbage_ends_the_connection_and_is_counted(garbage):
    async with proxied(PRODUCE_1) as (broker, proxy), client(proxy) as (reader, writer):
        writer.write(garbage)
        assert await ended(reader) == b""
        await until(lambda: proxy.closed)
        assert proxy.closed[0].startswith("garbage")
        assert [one.verdict for one in proxy.records] == [Verdict.ERROR]
        assert broker.requests == []


async def test_what_came_before_garbage_is_answered():
    async with proxied(PRODUCE_1) as (_, proxy), client(proxy) as (reader, writer):
        writer.write(ask(produce("secret"), 1) + b"\xff\xff\xff\xff")
        got = await ended(reader)
        assert int.from_bytes(got[4:8]) == 1


async def test_a_length_reserves_nothing():
    async with proxied(PRODUCE_1) as (_, proxy), client(proxy) as (_, writer):
        writer.write((15 << 20).to_bytes(4) + b"xx")
        await until(lambda: proxy.port.connections)
        (one,) = proxy.port.connections
        await until(lambda: len(one.client.inbox) == 6)
        assert one.client.inbox.bytes_held <= 1 << 16


async def test_frames_that_are_not_whole_take_so_much_memory_and_no_more():
    limits = Limits(frame_bytes=8 << 20, held_bytes=6 << 20)
    one = proxied(PRODUCE_1, limits=limits)
    async with one as (_, proxy), client(proxy) as (_, first), client(proxy) as (_, second), client(proxy) as third:
        for writer in (first, second):
            writer.write((8 << 20).to_bytes(4) + bytes(7 << 20))
        await until(lambda: proxy.closed)
        assert "too much memory" in proxy.closed[0]
        third[1].write(ask(produce(), 1))
        assert await receive(third[0]) == reply(answer(0, 9), 1)
        first.transport.abort()
        second.transport.abort()


async def test_a_request_that_does_not_end_is_not_waited_for():
    async with proxied(PRODUCE_1) as (_, proxy), client(proxy) as (reader, writer):
        await until(lambda: proxy.port.connections)
        proxy.sweep(29)
        assert proxy.port.connections
        proxy.sweep(31)  # the first is not there yet
        assert await ended(reader) == b""
    async with proxied(PRODUCE_1) as (_, proxy), client(proxy) as (reader, writer):
        writer.write(ask(produce(), 1))
        await receive(reader)
        writer.write(ask(produce(), 2)[:20])
        (one,) = proxy.port.connections
        await until(lambda: len(one.client.inbox) == 20)
        proxy.sweep(59)
        assert proxy.port.connections
        proxy.sweep(61)
        assert await ended(reader) == b""


async def test_a_silent_connection_is_closed_after_long():
    async with proxied(PRODUCE_1) as (_, proxy), client(proxy) as (reader, writer):
        writer.write(ask(produce(), 1))
        await receive(reader)
        proxy.sweep(800)
        assert proxy.port.connections
        proxy.sweep(1000)
        assert await ended(reader) == b""


async def test_a_client_that_does_not_read_stops_the_reading_of_answers():
    async with proxied(PRODUCE_1) as (broker, proxy):
        fetch = make(1, 12, topics=[])
        proxy.port.allow(rule(1))
        big = framed((0).to_bytes(4) + bytes(2 << 20))
        broker.answers = lambda frame: big[:4] + frame[8:12] + big[8:]
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", proxy.listens))
            for number in range(100):
                slow.sendall(ask(fetch, number))
            await anyio.sleep(0.3)
            (one,) = proxy.port.connections
            assert len(broker.requests) < 20
            assert one.client.transport.get_write_buffer_size() < 1 << 20
            assert one.broker.inbox.bytes_held <= 1 << 20
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def test_a_broker_that_does_not_read_stops_the_reading_of_requests():
    async with proxied(PRODUCE_1) as (broker, proxy), client(proxy) as (_, writer):
        broker.reads.clear()
        for number in range(40):
            writer.write(ask(produce(size=1 << 20), number))
        await anyio.sleep(0.3)
        (one,) = proxy.port.connections
        assert one.broker.transport.get_write_buffer_size() < 4 << 20
        assert writer.transport.get_write_buffer_size() > 10 << 20
        broker.reads.set()
        await until(lambda: len(broker.requests) == 40)


async def test_a_broker_that_is_not_there_ends_the_connection():
    async with proxied(PRODUCE_1, broker=False) as (_, proxy), client(proxy) as (reader, writer):
        writer.write(ask(produce(), 1))
        assert await ended(reader) == b""
        await until(lambda: proxy.closed)
        assert "cannot be reached" in proxy.closed[0]


async def test_a_broker_that_ends_ends_the_connection_after_its_answers():
    async with proxied(PRODUCE_1) as (broker, proxy), client(proxy) as (reader, writer):
        broker.answers = lambda frame: None if len(broker.requests) > 1 else broker.answered(frame)
        writer.write(ask(produce(), 1) + ask(produce(), 2))
        assert await ended(reader) == reply(answer(0, 9), 1)


@pytest.mark.parametrize("bad", [b"\xff\xff\xff\xff\0\0\0\1", b"\0\0\0\0\0\0\0\1", b"\0\0\0\x09\0\0\0\x63" + bytes(5)])
async def test_a_broker_that_talks_nonsense_ends_the_connection(bad):
    async with proxied(PRODUCE_1) as (broker, proxy), client(proxy) as (reader, writer):
        broker.answers = lambda _frame: bad
        writer.write(ask(produce(), 1))
        assert await ended(reader) == b""
        await until(lambda: proxy.closed)
        assert proxy.closed[0].startswith("garbage from the broker")


async def test_a_client_that_sends_no_more_still_gets_its_answers():
    async with proxied(PRODUCE_1) as (_, proxy), client(proxy) as (reader, writer):
        for number in range(3):
            writer.write(ask(produce(), number))
        writer.write_eof()
        assert await ended(reader) == b"".join(reply(answer(0, 9), number) for number in range(3))


async def test_a_client_that_leaves_half_a_request_leaves_nothing_behind():
    async with proxied(PRODUCE_1) as (broker, proxy):
        for _ in range(20):
            async with client(proxy) as (_, writer):
                writer.write(ask(produce(), 1)[:-1])
        await until(lambda: len(proxy.closed) == 20)
        assert broker.requests == []


async def test_refused_topics_of_a_client_that_waits_for_no_answer_end_the_connection():
    async with proxied(PRODUCE_1) as (broker, proxy), client(proxy) as (reader, writer):
        writer.write(ask(produce(acks=0), 1))
        await until(lambda: len(broker.requests) == 1)
        broker.answers = lambda _frame: b""
        writer.write(ask(produce("secret", acks=0), 2))
        await ended(reader)
        assert len(broker.requests) == 1


async def test_rules_change_for_connections_that_are_open():
    async with proxied(PRODUCE_1) as (broker, proxy), client(proxy) as (reader, writer):
        writer.write(ask(produce(), 1))
        await receive(reader)
        proxy.port.allow()
        writer.write(ask(produce(), 2))
        assert replied(await receive(reader), 0, 9, 2).responses
        assert len(broker.requests) == 1


async def test_garbage_by_chance_ends_connections_and_nothing_else():
    chance = random.Random(7)
    async with proxied(PRODUCE_1) as (_, proxy):
        for _ in range(150):
            async with client(proxy) as (_, writer):
                data = bytearray(b"".join(ask(produce("topic1"), n) for n in range(3)))
                for _ in range(chance.randint(1, 8)):
                    data[chance.randrange(len(data))] = chance.randrange(256)
                writer.write(bytes(data))
                await anyio.lowlevel.checkpoint()
        async with client(proxy) as (reader, writer):
            writer.write(ask(produce(), 99))
            assert await receive(reader) == reply(answer(0, 9), 99)


def test_an_inbox_keeps_what_has_come_while_it_grows():
    inbox, sent = Inbox(), bytearray()
    started = time.process_time()
    for number in range(300):
        data = bytes([number % 256]) * 1000
        sent += data
        while data:
            room = inbox.room()
            count = min(len(room), len(data))
            room[:count] = data[:count]
            inbox.came(count)
            data = data[count:]
    assert inbox.view(len(inbox)) == sent
    inbox.drop(299_999)
    assert bytes(inbox.view(1)) == sent[-1:]
    inbox.drop(1)
    inbox.shrink()
    assert inbox.bytes_held == 1 << 16
    inbox.free()
    assert time.process_time() - started < 1
