"""Service1 may produce to topic1, service2 may consume it, all other Kafka is refused: real clients, a real broker."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import anyio
import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from msgspec import msgpack

from cplane.domain.policy.kafka import KafkaRule
from cplane.domain.policy.redirection import Redirection, RedirectRule
from cplane.domain.verdict import Direction, Verdict
from cplane.proxy.channel import KafkaTerm, PutKafka
from cplane.proxy.channel_server import ProxyServer
from cplane.proxy.process import Process
from cplane.proxy.programs import own
from cplane.transport.address import UnixAddress
from tests.support.kafka_clients import CLIENTS, consume, produce
from tests.support.kafka_messages import ask, make, replied
from tests.support.kafka_site import ADDRESSES, BROKER, BROKER6, PORT, REFS, kafka_site, listening
from tests.support.netns import namespace

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

SERVER = f"{BROKER}:{PORT}"
PRODUCE_1 = KafkaRule(frozenset({0, 3, 18}), topic="topic1")
CONSUME_1 = KafkaRule(frozenset({1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 18}), topic="topic1")


def make_topics(site, *names):
    def work():
        admin = AdminClient({"bootstrap.servers": SERVER})
        for made in admin.create_topics([NewTopic(name, 1, 1) for name in names]).values():
            made.result(20)

    site.at("direct", work)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with kafka_site(tmp_path_factory.mktemp("kafka")) as made:
        make_topics(made, "topic1", "topic2", "secret")
        made.mission()
        yield made


@pytest.fixture(autouse=True)
def mission(site):
    site.records.clear()
    yield
    site.mission()


EACH = pytest.mark.parametrize("client", CLIENTS)
REFUSALS = {"TOPIC_AUTHORIZATION_FAILED", "TopicAuthorizationFailedError"}
GROUP_REFUSALS = {"GROUP_AUTHORIZATION_FAILED", "GroupAuthorizationFailedError"}


@EACH
def test_service1_produces_and_service2_consumes(site, client):
    value = os.urandom(8).hex()
    assert produce(site.services["service1"], client, "topic1", value, SERVER) == ""
    group = f"group-{client}"
    found = consume(site.services["service2"], client, "topic1", group, SERVER)
    while found and value not in found:  # what the other clients have produced comes first
        found = consume(site.services["service2"], client, "topic1", group, SERVER)
    assert value in found
    produced = site.told(api="produce", verdict=Verdict.FORWARDED)
    assert {(one.source.ip, one.destination, one.payload.topic) for one in produced} == {
        (ADDRESSES["service1"][0], (BROKER, PORT), "topic1")
    }
    assert {one.rules for one in produced} == {(REFS["service1"],)}
    assert {one.source.ip for one in site.told(api="fetch")} == {ADDRESSES["service2"][0]}
    assert "offsetcommit" in {one.payload.api_key for one in site.told(verdict=Verdict.FORWARDED)}


@EACH
def test_no_other_topic_can_be_produced_to(site, client):
    assert produce(site.services["service1"], client, "secret", "x", SERVER) in REFUSALS
    assert "secret" in {one.payload.topic for one in site.told(verdict=Verdict.DROPPED)}
    assert "secret" not in {one.payload.topic for one in site.told(verdict=Verdict.FORWARDED)}


@EACH
def test_who_may_consume_may_not_produce(site, client):
    refused = produce(site.services["service2"], client, "topic1", "x", SERVER)
    assert refused in REFUSALS | {"ClusterAuthorizationFailedError", "KafkaError"}
    assert not [one for one in site.told(api="produce") if one.verdict is Verdict.FORWARDED]


@EACH
def test_who_may_produce_may_not_consume(site, client):
    assert consume(site.services["service1"], client, "topic1", "another", SERVER) in GROUP_REFUSALS
    assert site.told(api="fetch") == []


@EACH
def test_no_other_topic_can_be_consumed(site, client):
    assert consume(site.services["service2"], client, "secret", "others", SERVER) in REFUSALS | {"nothing"}
    assert [one for one in site.told(api="fetch", verdict=Verdict.FORWARDED) if one.payload.topic == "secret"] == []


def test_names_of_other_topics_are_not_to_be_seen(site):
    def seen():
        return set(AdminClient({"bootstrap.servers": SERVER}).list_topics(timeout=10).topics)

    assert site.at("service1", seen) == {"topic1"}
    assert site.at("direct", seen) > {"topic1", "topic2", "secret"}


def test_topics_can_be_neither_made_nor_deleted(site):
    def work():
        admin = AdminClient({"bootstrap.servers": SERVER})
        results = [
            admin.create_topics([NewTopic("another", 1, 1)])["another"],
            admin.delete_topics(["topic1"])["topic1"],
        ]
        return [one.exception(10).args[0].name() for one in results]

    assert site.at("service1", work) == ["TOPIC_AUTHORIZATION_FAILED"] * 2


def test_a_change_of_rules_reaches_the_connection_that_is_open(site):
    def produced(connection, number):
        data = [{"name": "topic1", "partition_data": [{"index": 0, "records": None}]}]
        connection.sendall(ask(make(0, 9, acks=1, topic_data=data), number))
        data = connection.recv(65536)
        (topic,) = replied(data, 0, 9, number).responses
        return topic.partition_responses[0].error_code == 29

    connection = site.at("service1", lambda: socket.create_connection((BROKER, PORT), timeout=10))
    with connection:
        assert not produced(connection, 1)
        for number in range(2, 12, 2):
            site.allow("service1")
            assert produced(connection, number)
            site.allow("service1", PRODUCE_1)
            assert not produced(connection, number + 1)
        site.forget("service1")
        assert connection.recv(100) == b""


def test_a_port_without_a_listener_takes_nobody(site):
    site.forget("service1")

    def connect():
        try:
            socket.create_connection((BROKER, PORT), timeout=1).close()
        except OSError:
            return False
        return True

    assert not site.at("service1", connect)
    site.allow("service1", PRODUCE_1)
    assert site.at("service1", connect)


def test_the_broker_sees_the_clients_own_address(site):
    listener = site.broker.run(lambda: socket.create_server((BROKER, 9093)))
    with listener:
        handed = "iifname service1 meta nfproto ipv4 tcp dport 9093 tproxy ip to 127.0.0.1:10001 meta mark set 0x200"
        command = ["ip", "netns", "exec", site.router.name, "nft", f"add rule inet kafka pre {handed} accept"]
        subprocess.run(command, check=True)
        connection = site.at("service1", lambda: socket.create_connection((BROKER, 9093), timeout=10))
        listener.settimeout(10)
        accepted, peer = listener.accept()
        assert peer[0] == ADDRESSES["service1"][0]
        accepted.close()
        connection.close()


def test_the_proxy_goes_on_without_the_agent_and_again_after_it_is_killed(tmp_path):
    with kafka_site(tmp_path) as site:
        make_topics(site, "topic1", "secret")
        site.mission()
        site.stop_agent()
        assert produce(site.services["service1"], "confluent", "topic1", "1", SERVER) == ""
        assert produce(site.services["service1"], "confluent", "secret", "1", SERVER) in REFUSALS
        site.stop_proxy(signal.SIGKILL)
        started = time.monotonic()
        site.start_proxy(connected=False)
        listening(site.services["service1"], BROKER, PORT)
        took_s = time.monotonic() - started
        assert produce(site.services["service1"], "confluent", "topic1", "2", SERVER) == ""
        assert produce(site.services["service1"], "confluent", "secret", "2", SERVER) in REFUSALS
        assert took_s < 5
        assert site.stop_proxy() == 0


def test_ipv6_is_proxied_like_ipv4(tmp_path):
    with kafka_site(tmp_path, host=BROKER6) as site:
        site.mission()
        server = f"[{BROKER6}]:{PORT}"

        def make_them():
            admin = AdminClient({"bootstrap.servers": server})
            for made in admin.create_topics([NewTopic(name, 1, 1) for name in ("topic1", "secret")]).values():
                made.result(20)

        site.at("direct", make_them)
        assert produce(site.services["service1"], "confluent", "topic1", "6", server) == ""
        assert produce(site.services["service1"], "confluent", "secret", "6", server) in REFUSALS
        assert consume(site.services["service2"], "confluent", "topic1", "six", server) == ["6"]
        assert {one.source.ip for one in site.told(api="produce")} == {ADDRESSES["service1"][1]}


def test_a_proxy_that_is_killed_serves_its_ports_again_at_once_and_goes_on_without_the_agent(tmp_path):
    told = Redirection(Direction.EGRESS, 6, PORT, "kafka", (RedirectRule(None, "", None),))

    async def until(condition):
        while not condition():  # noqa: ASYNC110  # nobody tells
            await anyio.sleep(0.002)

    async def work():
        with anyio.fail_after(30):
            server = ProxyServer(UnixAddress(str(tmp_path / "channel.sock")), lambda *_: None)
            process = Process(own("kafka", tmp_path))
            backend = server.backend("kafka", process.run)
            async with anyio.create_task_group() as tasks:
                await tasks.start(server.run)
                tasks.start_soon(backend.run)
                await backend.apply({10001: told}, ())
                await until(lambda: not backend.problems())
                os.kill(process.pid, signal.SIGKILL)
                await until(backend.problems)
                began = anyio.current_time()
                await until(lambda: not backend.problems())
                took_s = anyio.current_time() - began
                pid = process.pid
                tasks.cancel_scope.cancel()
            os.kill(pid, 0)
            await process.stop()
            return took_s, process.starts

    def run():
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return anyio.run(work)

    with namespace() as netns:
        took_s, starts = netns.run(run)
    assert starts == 2
    assert took_s < 3  # it takes half a second where nothing else runs


MOCK = """
import sys, time
from confluent_kafka import Producer
cluster = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1})
(broker,) = cluster.list_topics(timeout=10).brokers.values()
print(broker.port, flush=True)
sys.stdin.read()
"""
LOOPED = """
table inet kafka {
  chain pre {
    type filter hook prerouting priority mangle; policy accept;
    iifname lo tcp dport %d meta mark != 0xb00 tproxy ip to 127.0.0.1:10001 meta mark set 0x200 accept
  }
}
"""


def test_the_mock_cluster_of_librdkafka_is_guarded_like_a_broker(tmp_path):
    terms = (KafkaTerm(REFS["service1"], "spec", (PRODUCE_1, CONSUME_1)),)
    (tmp_path / "kafka.rules").write_bytes(msgpack.encode([PutKafka(10001, Direction.EGRESS, terms)]))
    with namespace() as netns, ExitStack() as stack:
        netns.ip("link", "set", "lo", "up")
        netns.ip("rule", "add", "fwmark", "0x200/0xf00", "lookup", "2004", "pref", "9")
        netns.ip("route", "add", "local", "default", "dev", "lo", "table", "2004")
        there = ["ip", "netns", "exec", netns.name]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        mock = stack.enter_context(subprocess.Popen([*there, sys.executable, "-c", MOCK], **pipes))
        port = int(mock.stdout.readline())
        subprocess.run([*there, "nft", "-f", "-"], input=LOOPED % port, text=True, check=True)
        proxy = stack.enter_context(subprocess.Popen([*there, *own("kafka", tmp_path).command]))
        stack.callback(proxy.terminate)
        listening(netns, "127.0.0.1", port)
        server = f"127.0.0.1:{port}"
        assert produce(netns, "confluent", "topic1", "mocked", server) == ""
        assert produce(netns, "confluent", "secret", "mocked", server) in REFUSALS
        assert consume(netns, "confluent", "topic1", "group", server) == ["mocked"]
        assert consume(netns, "confluent", "secret", "group", server) in REFUSALS
        mock.stdin.close()
