"""The agent and a proxy over a real socket: rules arrive whole, what was seen comes back, and either may go away."""

import asyncio
import os
import socket
from contextlib import asynccontextmanager

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cplane.domain.access import Access, Address, Dns, Kafka, Phase
from cplane.domain.policy.dns import DnsRule
from cplane.domain.policy.kafka import KafkaRule
from cplane.domain.policy.redirect import L7Rules, Redirect
from cplane.domain.policy.redirection import Redirection, RedirectRule
from cplane.domain.policy.rule import CNP, PolicyRef
from cplane.domain.verdict import Direction, Verdict
from cplane.proxy import channel_client, channel_server
from cplane.proxy.channel import (
    FRAME_MAX,
    Ack,
    BrokenFrames,
    Failed,
    Frames,
    Hello,
    KafkaTerm,
    Learned,
    PutDns,
    PutKafka,
    Seen,
    Version,
    decode_records,
    encode_records,
    frame,
    row,
    to_agent,
    to_proxy,
)
from cplane.proxy.channel_client import ProxyClient
from cplane.proxy.channel_server import ProxyServer
from cplane.transport.address import UnixAddress

pytestmark = pytest.mark.anyio

REF = PolicyRef(CNP, "default", "topics")
PRODUCE = KafkaRule(frozenset({0, 3, 18}), topic="topic1")
CLIENT, BROKER = Address("10.1.0.1", 40000), Address("10.1.0.2", 9092)


@pytest.fixture
def anyio_backend():
    return "asyncio"  # the proxies'


def redirection(*rules, direction=Direction.INGRESS):
    term = RedirectRule(REF, "spec", Redirect(L7Rules("kafka", rules)))
    return Redirection(direction, 6, 9092, "kafka", (term,))


def record(number=0, topic="topic1"):
    payload = Kafka("produce", 9, number, topic)
    return Access(
        *(number, Phase.REQUEST, Direction.INGRESS, Verdict.DROPPED, 6, CLIENT, BROKER),
        *(payload, 10000, (REF,), 0),
    )


class Proxy:
    """A proxy that only remembers what it shall enforce."""

    def __init__(self, path, put=PutKafka):
        self.rows, self.changes, self.refuses = {}, [], {}
        self.client = ProxyClient(put, path / "channel.sock", path / f"{put.__name__}.rules", self.enforce)

    async def enforce(self, put, gone):
        self.changes.append((sorted(put), sorted(gone)))
        self.rows.update(put)
        for port in gone:
            del self.rows[port]
        return {port: self.refuses[port] for port in put if port in self.refuses}


class Agent:
    def __init__(self, path, learned=None):
        self.records, self.lost = [], 0
        self.server = ProxyServer(UnixAddress(str(path / "channel.sock")), self.seen, learned)
        self.kafka = self.server.backend("kafka")

    def seen(self, records, lost):
        self.records += records
        self.lost += lost


@asynccontextmanager
async def running(start):
    async with anyio.create_task_group() as tasks:
        await start(tasks)
        yield
        tasks.cancel_scope.cancel()


def serving(agent):
    return running(lambda tasks: tasks.start(agent.server.run))


def proxying(proxy):
    async def start(tasks):
        tasks.start_soon(proxy.client.run)

    return running(start)


async def until(condition):
    with anyio.fail_after(5):
        while not condition():  # noqa: ASYNC110  # nobody tells
            await anyio.sleep(0.005)


async def test_a_change_is_in_force_when_apply_returns(tmp_path):
    agent, proxy = Agent(tmp_path), Proxy(tmp_path)
    async with serving(agent), proxying(proxy):
        await agent.kafka.apply({10001: redirection(PRODUCE), 10002: redirection()}, ())
        assert proxy.rows[10001] == PutKafka(10001, Direction.INGRESS, (KafkaTerm(REF, "spec", (PRODUCE,)),))
        assert proxy.rows[10002].rules == (KafkaTerm(REF, "spec", ()),)
        assert agent.kafka.problems() == {}
        await agent.kafka.apply({10001: redirection()}, (10002,))
        assert proxy.rows == {10001: PutKafka(10001, Direction.INGRESS, (KafkaTerm(REF, "spec", ()),))}


async def test_rows_that_are_there_before_the_proxy_are_told_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(channel_server, "PATIENCE_S", 0.05)
    agent, proxy = Agent(tmp_path), Proxy(tmp_path)
    async with serving(agent):
        await agent.kafka.apply({10001: redirection(PRODUCE)}, ())
        assert agent.kafka.problems() == {10001: "the kafka proxy is not running"}
        async with proxying(proxy):
            await until(lambda: agent.kafka.problems() == {})
            assert list(proxy.rows) == [10001]


async def test_a_proxy_that_stays_away_is_waited_for_once(tmp_path, monkeypatch):
    monkeypatch.setattr(channel_server, "PATIENCE_S", 0.1)
    agent = Agent(tmp_path)
    async with serving(agent):
        await agent.kafka.apply({10001: redirection()}, ())
        started = anyio.current_time()
        for port in range(10002, 10022):
            await agent.kafka.apply({port: redirection()}, ())
        assert anyio.current_time() - started < 0.1


async def test_a_proxy_goes_on_without_the_agent_and_learns_what_changed_meanwhile(tmp_path):
    proxy = Proxy(tmp_path)
    async with proxying(proxy):
        async with serving(agent := Agent(tmp_path)):
            await agent.kafka.apply({10001: redirection(PRODUCE), 10002: redirection(PRODUCE)}, ())
        await until(lambda: not proxy.client.connected)
        assert sorted(proxy.rows) == [10001, 10002]
        async with serving(agent := Agent(tmp_path)):
            await agent.kafka.apply({10002: redirection(PRODUCE), 10003: redirection()}, ())
            await until(lambda: sorted(proxy.rows) == [10002, 10003])
            assert agent.kafka.problems() == {}
            assert not any(10002 in put for put, _ in proxy.changes[1:])  # it is the same as before


async def test_a_proxy_that_starts_while_the_agent_is_away_enforces_the_last_rules(tmp_path):
    async with serving(agent := Agent(tmp_path)), proxying(Proxy(tmp_path)):
        await agent.kafka.apply({10001: redirection(PRODUCE)}, ())
    again = Proxy(tmp_path)
    async with proxying(again):
        await until(lambda: 10001 in again.rows)
    assert again.rows[10001].rules[0].rules == (PRODUCE,)
    assert (tmp_path / "PutKafka.rules").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x91\x93\xa5kafka", b"\x91\x94\xa5kafka\xcd'\x11\x01\xa1x"])
async def test_rules_that_cannot_be_read_let_nothing_pass(tmp_path, content):
    (tmp_path / "PutKafka.rules").write_bytes(content)
    proxy = Proxy(tmp_path)
    async with proxying(proxy), serving(agent := Agent(tmp_path)):
        await until(lambda: proxy.client.connected)
        assert proxy.rows == {}
        await agent.kafka.apply({10001: redirection()}, ())
        assert list(proxy.rows) == [10001]


async def test_rules_that_cannot_be_written_leave_no_old_ones_behind(tmp_path):
    proxy = Proxy(tmp_path)
    async with serving(agent := Agent(tmp_path)), proxying(proxy):
        await agent.kafka.apply({10001: redirection(PRODUCE)}, ())
        (tmp_path / "PutKafka.rules.new").mkdir()
        await agent.kafka.apply({10001: redirection()}, ())
    assert not (tmp_path / "PutKafka.rules").exists()


async def test_what_a_proxy_cannot_serve_is_a_problem_until_it_can(tmp_path):
    agent, proxy = Agent(tmp_path), Proxy(tmp_path)
    proxy.refuses = {10001: "address in use"}
    async with serving(agent), proxying(proxy):
        await agent.kafka.apply({10001: redirection(), 10002: redirection()}, ())
        assert agent.kafka.problems() == {10001: "address in use"}
        proxy.refuses = {}
        await agent.kafka.apply({10001: redirection()}, ())  # the same again is tried again
        assert agent.kafka.problems() == {}


async def test_a_rule_set_that_fits_no_message_is_a_problem_and_lets_nothing_pass(tmp_path, monkeypatch):
    monkeypatch.setattr("cplane.proxy.channel.FRAME_MAX", 1000)
    agent, proxy = Agent(tmp_path), Proxy(tmp_path)
    async with serving(agent), proxying(proxy):
        await agent.kafka.apply({10001: redirection(PRODUCE)}, ())
        await agent.kafka.apply({10001: redirection(*(KafkaRule(topic=f"topic{n}") for n in range(200)))}, ())
        assert proxy.rows == {}
        assert "more than the 1000" in agent.kafka.problems()[10001]


async def test_the_newer_of_two_proxies_of_a_kind_is_listened_to(tmp_path):
    agent, old = Agent(tmp_path), Proxy(tmp_path)
    async with serving(agent), proxying(old):
        await until(lambda: agent.kafka.is_connected)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "channel.sock"))
        writer.write(frame(Hello("kafka", 1)))
        assert to_proxy((await reader.read(100))[4:]) == Version(0)
        writer.close()


async def test_what_was_seen_comes_in_order_and_in_batches(tmp_path):
    agent, proxy = Agent(tmp_path), Proxy(tmp_path)
    async with serving(agent), proxying(proxy):
        for number in range(1500):
            proxy.client.seen(record(number))
        await until(lambda: len(agent.records) == 1500)
    assert agent.records == [record(number) for number in range(1500)]
    assert isinstance(agent.records[0].payload, Kafka)
    assert isinstance(agent.records[0].verdict, Verdict)


async def test_what_was_seen_while_the_agent_was_away_is_told_later(tmp_path):
    agent, proxy = Agent(tmp_path), Proxy(tmp_path)
    async with proxying(proxy):
        proxy.client.seen(record(1))
        await anyio.sleep(0.1)
        async with serving(agent):
            await until(lambda: agent.records == [record(1)])


async def test_what_there_is_no_room_for_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(channel_client, "SEEN_MAX", 100_000)
    agent, proxy = Agent(tmp_path), Proxy(tmp_path)
    async with proxying(proxy):
        for number in range(512 * 20):
            proxy.client.seen(record(number))
        assert proxy.client.lost > 0
        async with serving(agent):
            await until(lambda: len(agent.records) + agent.lost == 512 * 20)
    assert agent.lost > 0 and proxy.client.lost == 0


@pytest.mark.slow
async def test_a_proxy_that_does_not_read_is_a_problem_and_costs_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(channel_server, "PATIENCE_S", 0.05)
    agent = Agent(tmp_path)
    large = redirection(*(KafkaRule(topic=f"topic-number-{n}") for n in range(5000)))
    async with serving(agent):
        with socket.socket(socket.AF_UNIX) as slow:
            slow.connect(str(tmp_path / "channel.sock"))
            slow.send(frame(Hello("kafka", 1)))
            await until(lambda: agent.kafka.is_connected)
            for port in range(10001, 10031):
                await agent.kafka.apply({port % 3 + 10001: large}, ())
            assert set(agent.kafka.problems().values()) == {"the proxy has not confirmed it"}
            frames, versions = Frames(), []
            slow.settimeout(2)
            while 30 not in versions:  # what it is told then is the latest, once
                bodies = [to_proxy(body) for body in frames.feed(await anyio.to_thread.run_sync(slow.recv, 1 << 20))]
                versions += [one.version for one in bodies if isinstance(one, Version)]
            assert len(versions) < 10
            slow.send(frame(Ack(30)))
            await until(lambda: agent.kafka.problems() == {})


HELLO = frame(Hello("kafka", 1))


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xff\xff\xff\xff",
        (FRAME_MAX + 1).to_bytes(4),
        b"\0\0\0\0",
        b"\0\0\0\x01\xc1",
        b"GET / HTTP/1.1\r\n\r\n",
        os.urandom(1000)[:-1].replace(b"\0", b"\x01"),
        frame(Hello("envoy", 1)),
        frame(Hello("kafka", 1, 2)),
        frame(Ack(1)),
        HELLO + HELLO,
        HELLO + frame(Ack(7)),
        HELLO + frame(Version(0)),
        HELLO + frame(Learned(1, "10.0.0.1", "a.", (), 1, 0)),
        HELLO + frame(Seen(encode_records([]), 0))[:-2] + b"\xc1\0",
        HELLO + b"\0\0\0\x05" + b"\x91" * 5,
        HELLO + (9999).to_bytes(4) + b"\x91" * 9999,
    ],
)
async def test_who_breaks_the_rules_is_disconnected_and_counted(tmp_path, bomb):
    agent, proxy = Agent(tmp_path), Proxy(tmp_path)
    async with serving(agent):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "channel.sock"))
        writer.write(bomb)
        with anyio.fail_after(5):
            await reader.read()
        writer.close()
        await until(lambda: agent.server.broken == 1)
        async with proxying(proxy):
            await agent.kafka.apply({10001: redirection()}, ())
            assert agent.kafka.problems() == {}


async def test_who_says_nothing_is_disconnected(tmp_path, monkeypatch):
    monkeypatch.setattr(channel_server, "HELLO_S", 0.05)
    async with serving(Agent(tmp_path)):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "channel.sock"))
        with anyio.fail_after(5):
            assert await reader.read() == b""
        writer.close()


async def test_an_agent_that_breaks_the_rules_is_left_and_asked_again(tmp_path):
    talks = []

    async def babble(reader, writer):
        talks.append(await reader.read(100))
        writer.write([b"\xff\xff\xff\xff", b"\0\0\0\x01\xc1", frame(row("dns", 10001, redirection()))][len(talks) % 3])
        await reader.read()
        writer.close()

    proxy = Proxy(tmp_path)
    async with await asyncio.start_unix_server(babble, tmp_path / "channel.sock"), proxying(proxy):
        await until(lambda: len(talks) >= 4)
    assert proxy.rows == {}


async def test_half_a_change_is_none(tmp_path):
    proxy = Proxy(tmp_path)
    async with proxying(proxy):
        async with serving(agent := Agent(tmp_path)):
            await agent.kafka.apply({10001: redirection(PRODUCE)}, ())

        async def half(reader, writer):
            writer.write(frame(row("kafka", 10001, redirection())))
            await writer.drain()
            writer.close()

        async with await asyncio.start_unix_server(half, tmp_path / "channel.sock"):
            await anyio.sleep(0.1)
    assert proxy.rows[10001].rules[0].rules == (PRODUCE,)


async def test_an_answer_is_released_when_it_is_written(tmp_path):
    gate, learned = anyio.Event(), []

    async def learn(told):
        learned.append(told)
        await gate.wait()

    proxy = Proxy(tmp_path, PutDns)
    async with serving(Agent(tmp_path, learn)), proxying(proxy):
        await until(lambda: proxy.client.connected)
        asked = asyncio.ensure_future(proxy.client.learned("10.1.0.1", "a.example.", ("192.0.2.1",), 30, 7))
        await until(lambda: learned)
        assert not asked.done()
        assert learned[0] == Learned(1, "10.1.0.1", "a.example.", ("192.0.2.1",), 30, 7)
        gate.set()
        assert await asked


async def test_an_answer_does_not_wait_for_an_agent_that_goes_away(tmp_path):
    proxy = Proxy(tmp_path, PutDns)

    async def learn(_told):
        await anyio.sleep_forever()

    async with proxying(proxy):
        async with serving(Agent(tmp_path, learn)):
            await until(lambda: proxy.client.connected)
            asked = asyncio.ensure_future(proxy.client.learned("10.1.0.1", "a.", ("192.0.2.1",), 30, 7))
            await anyio.sleep(0.05)
        assert not await asked
        assert not await proxy.client.learned("10.1.0.1", "a.", ("192.0.2.1",), 30, 7)


async def test_a_proxy_may_say_later_that_it_cannot_serve_a_port(tmp_path):
    agent, proxy = Agent(tmp_path), Proxy(tmp_path)
    async with serving(agent), proxying(proxy):
        await agent.kafka.apply({10001: redirection()}, ())
        await proxy.client.failed(10001, "gone")
        await until(lambda: agent.kafka.problems() == {10001: "gone"})
        await proxy.client.failed(10001, "")
        await until(lambda: agent.kafka.problems() == {})


def test_a_redirection_without_requests_to_read_lets_everything_pass():
    made = row("kafka", 10001, Redirection(Direction.EGRESS, 6, 9092, "kafka", (RedirectRule(REF, "spec", None),)))
    assert made == PutKafka(10001, Direction.EGRESS, (KafkaTerm(REF, "spec", None),))


def test_rules_of_another_protocol_let_nothing_pass():
    terms = (RedirectRule(REF, "a", Redirect(L7Rules("dns", (DnsRule("a."),)))), RedirectRule(REF, "b", Redirect()))
    made = row("kafka", 10001, Redirection(Direction.EGRESS, 6, 9092, "kafka", terms))
    assert [one.rules for one in made.rules] == [(), ()]


def test_records_of_both_kinds_come_back_as_they_were():
    of_dns = record()._replace(payload=Dns("a.example.", ("A",), 0, ("192.0.2.1",), 30))
    assert decode_records("dns", encode_records([of_dns])) == [of_dns]
    assert decode_records("kafka", encode_records([record()])) == [record()]
    with pytest.raises(BrokenFrames):
        decode_records("kafka", encode_records([of_dns]))


@given(st.lists(st.binary(max_size=40), max_size=8), st.randoms())
def test_messages_are_cut_the_same_however_bytes_arrive(bodies, random):
    stream = b"".join(len(body).to_bytes(4) + body for body in bodies)
    cuts = sorted(random.sample(range(len(stream) + 1), k=min(5, len(stream))))
    frames = Frames()
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [body for piece in pieces for body in frames.feed(piece)] == bodies


@given(st.binary(max_size=200))
@example(b"\x91\xab\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80")
def test_any_bytes_are_a_message_or_broken(data):
    for read in (to_agent, to_proxy):
        try:
            read(data)
        except BrokenFrames:
            pass


def test_a_failure_is_told_short():
    assert len(frame(Failed(1, "x" * 10))) < 40
