"""The DNS proxy between a client and a server of their own, both real: dig, getaddrinfo, and bytes that are no DNS."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import anyio
import pytest
from anyio import from_thread
from dnslib import DNSRecord
from msgspec import msgpack

from cplane.domain.access import Access, Dns, Phase
from cplane.domain.policy.dns import DnsRule
from cplane.domain.policy.redirect import L7Rules, Redirect
from cplane.domain.policy.redirection import Redirection, RedirectRule
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.verdict import Direction, Verdict
from cplane.proxy.channel import DnsTerm, Learned, PutDns
from cplane.proxy.channel_server import ProxyServer
from cplane.transport.address import UnixAddress
from tests.support.dnsnet import CLIENT4, PORT, SERVER4, SERVER6, DnsNet, dns_net, eventually

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

REF = PolicyRef("CiliumNetworkPolicy", "shop", "names")
servers = pytest.mark.parametrize("server", [SERVER4, SERVER6], ids=["v4", "v6"])


def redirection(*rules: DnsRule) -> Redirection:
    redirect = Redirect(L7Rules("dns", rules))
    return Redirection(Direction.EGRESS, 17, 53, "dns", (RedirectRule(REF, "spec.egress[0]", redirect),))


class AgentSide:
    """What an agent does with the proxy; `delay_s`: how long the datapath takes to know an answer."""

    def __init__(self, channel: Path) -> None:
        self.seen: list[Access] = []
        self.learned: list[Learned] = []
        self.delay_s = 0.0
        self._server = ProxyServer(UnixAddress(str(channel)), lambda found, _lost: self.seen.extend(found), self._learn)
        self.backend = self._server.backend("dns")

    async def _learn(self, told: Learned) -> None:
        self.learned.append(told)
        await anyio.sleep(self.delay_s)

    def __enter__(self) -> Self:
        self._portal_scope = from_thread.start_blocking_portal()
        self._portal = self._portal_scope.__enter__()
        self._running = self._portal.start_task_soon(self._server.run)
        return self

    def put(self, *rules: DnsRule) -> None:
        """The rules are in force."""
        self._portal.call(self.backend.apply, {PORT: redirection(*rules)}, ())

    def __exit__(self, *_: object) -> None:
        self._running.cancel()
        self._portal_scope.__exit__(None, None, None)

    def of(self, query: str) -> list[Access]:
        """What was seen of a name."""
        return [one for one in self.seen if isinstance(one.payload, Dns) and one.payload.query == query]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DnsNet]:
    """Names under `example` may be asked for; there is no agent."""
    with dns_net(tmp_path_factory.mktemp("dns")) as net:
        save(net, DnsRule("", "*.example"), DnsRule("a.example."))
        net.start_proxy()
        net.until_served()
        yield net


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[DnsNet]:
    with dns_net(tmp_path) as net:
        yield net


def save(net: DnsNet, *rules: DnsRule) -> None:
    """The proxy finds these rules when it starts."""
    net.rules.write_bytes(msgpack.encode([PutDns(PORT, Direction.EGRESS, (DnsTerm(REF, "spec", rules),))]))


@servers
@pytest.mark.parametrize("how", ["+notcp", "+tcp"])
def test_dig_is_answered_what_may_be_asked_and_refused_all_else(shared: DnsNet, server: str, how: str) -> None:
    assert shared.dig("a.example", how, "+short", server=server) == "192.0.2.1"
    assert shared.dig("A.eXample", "AAAA", how, "+short", server=server) == "2001:db8::1"
    assert shared.dig("text.example", "TXT", how, "+short", server=server) == '"hello"'
    assert "status: NXDOMAIN" in shared.dig("nobody.example", how, server=server)
    said = shared.dig("evil.test", how, server=server)
    assert "status: REFUSED" in said
    assert "ANSWER: 0" in said


@servers
def test_aliases_and_all_records_of_a_name_pass(shared: DnsNet, server: str) -> None:
    found = shared.dig("alias.example", "+short", server=server).splitlines()
    assert sorted(found) == ["192.0.2.1", "a.example.", "deep.example."]
    assert shared.dig("a.example", "ANY", "+notcp", "+short", server=server).splitlines() == [
        "192.0.2.1",
        "2001:db8::1",
    ]


@servers
def test_an_answer_that_is_too_long_is_asked_for_again_over_tcp(shared: DnsNet, server: str) -> None:
    found = shared.dig("many.example", "+noedns", server=server)
    assert "(TCP)" in found
    assert found.count("198.51.100.") == 100
    found = shared.dig("many.example", "+bufsize=4096", server=server)
    assert "(TCP)" in found, "and never in several packets, of which the datapath hands a proxy the first alone"
    assert found.count("198.51.100.") == 100


def test_getaddrinfo_finds_both_addresses(shared: DnsNet) -> None:
    folder = Path("/etc/netns") / shared.client.name
    folder.mkdir(parents=True)
    try:
        (folder / "resolv.conf").write_text(f"nameserver {SERVER4}\nnameserver {SERVER6}\noptions timeout:1\n")
        script = "import socket; print(sorted({one[4][0] for one in socket.getaddrinfo('a.example', 443)}))"
        found = shared.run(sys.executable, "-c", script)
        assert found.stdout.strip() == "['192.0.2.1', '2001:db8::1']", found.stderr
        refused = shared.run(sys.executable, "-c", script.replace("a.example", "evil.test"))
        assert "gaierror" in refused.stderr
    finally:
        (folder / "resolv.conf").unlink()
        folder.rmdir()


def test_a_server_sees_the_client_and_the_client_the_server(shared: DnsNet) -> None:
    """Nothing else than its own address would be answered, by the server's route back alone."""
    answer = exchange(shared, bytes(DNSRecord.question("a.example").pack()))
    assert answer is not None
    assert str(DNSRecord.parse(answer).short()) == "192.0.2.1"


def exchange(net: DnsNet, data: bytes, server: str = SERVER4, timeout_s: float = 1.0) -> bytes | None:
    """What the client is answered over a connected socket, which takes answers of the server alone."""

    def ask() -> bytes | None:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect((server, 53))
            sock.send(data)
            try:
                return sock.recv(65535)
            except TimeoutError:
                return None

    return net.client.run(ask)


def test_garbage_is_dropped_and_the_proxy_goes_on(shared: DnsNet) -> None:
    good = bytes(DNSRecord.question("a.example").pack())
    for data in (
        b"",
        b"\0",
        os.urandom(11),
        good[:17],
        b"\xff" * 512,
        good[:12] + b"\xc0\x0c\0\1\0\1",
        os.urandom(5000),
    ):
        found = exchange(shared, data, timeout_s=0.1)
        assert found is None or found[3] & 0xF == 5
    two = bytearray(good)
    two[5] = 2
    answer = exchange(shared, bytes(two))
    assert answer is not None
    assert answer[3] & 0xF == 5
    assert shared.dig("garbled.example", server=SERVER4)
    assert shared.dig("a.example", "+short") == "192.0.2.1"


def test_who_asks_the_proxy_itself_gets_no_answer_and_makes_it_ask_nobody(shared: DnsNet) -> None:
    def ask() -> list[bytes]:
        query = bytes(DNSRecord.question("a.example").pack())
        found = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.3)
            sock.sendto(query, ("127.0.0.1", PORT))
            with suppress(TimeoutError):
                found.append(sock.recv(4096))
        with socket.create_connection(("127.0.0.1", PORT), timeout=3) as sock, suppress(ConnectionError):
            sock.sendall(len(query).to_bytes(2) + query)
            if data := sock.recv(4096):
                found.append(data)
        return found

    assert shared.node.run(ask) == []
    assert shared.dig("a.example", "+short") == "192.0.2.1"


def test_garbage_over_tcp_ends_its_connection_alone(shared: DnsNet) -> None:
    def send(data: bytes) -> bytes:
        with socket.create_connection((SERVER4, 53), timeout=3) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            found = b""
            while more := sock.recv(65536):
                found += more
            return found

    denied = bytes(DNSRecord.question("evil.test").pack())
    allowed = bytes(DNSRecord.question("a.example").pack())
    both = b"".join(len(one).to_bytes(2) + one for one in (denied, allowed))
    for data in (b"\0", b"\xff\xff" + bytes(100), b"\0\5hello", b"GET / HTTP/1.0\r\n\r\n"):
        assert shared.client.run(lambda data=data: send(data)) == b""
    found = shared.client.run(lambda: send(both))
    first = 2 + int.from_bytes(found[:2])
    codes = {DNSRecord.parse(one).header.rcode for one in (found[2:first], found[first + 2 :])}
    assert codes == {0, 5}


def test_what_is_asked_and_answered_is_told_with_the_rules_that_allow_it(alone: DnsNet) -> None:
    with AgentSide(alone.channel) as agent:
        agent.put(DnsRule("", "*.example"))
        alone.start_proxy()
        eventually(lambda: not agent.backend.problems())
        assert alone.dig("alias.example", "+short")
        assert "REFUSED" in alone.dig("evil.test", "+tcp")
        eventually(lambda: len(agent.of("alias.example.")) == 2 and len(agent.of("evil.test.")) == 1)
        asked, answered = agent.of("alias.example.")
        (denied,) = agent.of("evil.test.")
    assert (asked.phase, asked.verdict, asked.rules, asked.payload.qtypes) == (
        Phase.REQUEST,
        Verdict.FORWARDED,
        (REF,),
        ("A",),
    )
    assert (asked.source.ip, asked.destination) == (CLIENT4, (SERVER4, 53))
    assert (answered.phase, answered.source, answered.protocol, answered.proxy_port) == (
        Phase.RESPONSE,
        (SERVER4, 53),
        17,
        PORT,
    )
    assert answered.payload.ips == ("192.0.2.1",)
    assert (answered.payload.ttl, answered.payload.cnames) == (20, ("deep.example.", "a.example."))
    assert answered.latency_ns > 0
    assert (denied.verdict, denied.protocol, denied.rules) == (Verdict.DROPPED, 6, ())


def test_an_answer_waits_until_the_datapath_knows_it_and_not_for_ever(alone: DnsNet) -> None:
    with AgentSide(alone.channel) as agent:
        agent.put(DnsRule("", "*.example"))
        alone.start_proxy("--max-delay-ms", "800")
        eventually(lambda: not agent.backend.problems())
        agent.delay_s = 0.3
        assert took(alone, "a.example") >= 0.3
        (told,) = agent.learned
        assert (told.endpoint_ip, told.name, told.ips, told.ttl, told.server) == (
            CLIENT4,
            "a.example.",
            ("192.0.2.1",),
            30,
            SERVER4,
        )
        assert took(alone, "a.example") < 0.25, "the agent knows it"
        agent.delay_s = 5
        assert 0.8 <= took(alone, "b.example") < 2


def took(net: DnsNet, name: str) -> float:
    """How long the answer to the name takes, in seconds."""
    data, began = bytes(DNSRecord.question(name).pack()), time.monotonic()
    assert exchange(net, data, timeout_s=5) is not None
    return time.monotonic() - began


def test_the_last_rules_are_enforced_while_the_agent_is_away_and_by_a_proxy_that_starts_then(alone: DnsNet) -> None:
    with AgentSide(alone.channel) as agent:
        agent.put(DnsRule("a.example."))
        alone.start_proxy()
        eventually(lambda: not agent.backend.problems())
        assert "REFUSED" in alone.dig("b.example")
    assert alone.dig("a.example", "+short") == "192.0.2.1"
    assert "REFUSED" in alone.dig("b.example")
    alone.stop_proxy(kill=True)
    assert "timed out" in alone.dig("a.example"), "nobody answers, and nothing passes by"
    alone.start_proxy()
    alone.until_served()
    assert alone.dig("a.example", "+short") == "192.0.2.1"
    assert "REFUSED" in alone.dig("b.example")
    with AgentSide(alone.channel) as agent:
        agent.put(DnsRule("b.example."))
        eventually(lambda: [one.name for one in agent.learned] == ["a.example."])  # what was learned meanwhile
        assert "REFUSED" in alone.dig("a.example")
        assert alone.dig("b.example", "+short") == "192.0.2.2"


def test_new_rules_hold_for_connections_that_are_open(alone: DnsNet) -> None:
    def both(agent: AgentSide) -> list[int]:
        data = bytes(DNSRecord.question("a.example").pack())
        with socket.create_connection((SERVER4, 53), timeout=3) as sock:
            codes = []
            for rules in ([DnsRule("a.example.")], [DnsRule("b.example.")]):
                agent.put(*rules)
                sock.sendall(len(data).to_bytes(2) + data)
                codes.append(sock.recv(4096)[5] & 0xF)
            return codes

    with AgentSide(alone.channel) as agent:
        agent.put()
        alone.start_proxy()
        eventually(lambda: not agent.backend.problems())
        assert alone.client.run(lambda: both(agent)) == [0, 5]


def test_many_questions_at_once_are_answered_and_too_many_do_no_harm(shared: DnsNet) -> None:
    def flood() -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((SERVER4, 53))
            sock.settimeout(0.5)
            for number in range(3000):
                sock.send(bytes(DNSRecord.question(f"n{number}.example").pack()))
            found = 0
            try:
                while sock.recv(4096):
                    found += 1
            except TimeoutError:
                return found

    assert shared.client.run(flood) > 100
    eventually(lambda: shared.dig("a.example", "+short") == "192.0.2.1")
