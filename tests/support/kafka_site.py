"""Two services, a broker, and between them a router whose Kafka proxy gets the services' connections.

A third client, `direct`, has its connections forwarded as they are.

nftables hands connections over as the datapath does: with their original addresses, to a proxy port for each service.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from cplane.domain.access import Access, Kafka, Phase
from cplane.domain.policy.kafka import KafkaRule
from cplane.domain.policy.redirect import L7Rules, Redirect
from cplane.domain.policy.redirection import Redirection, RedirectRule
from cplane.domain.policy.rule import CNP, PolicyRef
from cplane.domain.verdict import Direction, Verdict
from cplane.proxy.channel_server import ProxyServer
from cplane.transport.address import UnixAddress
from tests.support.netns import Namespace, namespaces

T = TypeVar("T")

BROKER = "10.9.0.2"
BROKER6 = "fd09::2"
PORT = 9092
PROXY_PORTS = {"service1": 10001, "service2": 10002}
ADDRESSES = {"service1": ("10.9.1.2", "fd09:1::2"), "service2": ("10.9.2.2", "fd09:2::2")}
REFS = {name: PolicyRef(CNP, "default", name) for name in PROXY_PORTS}

RULESET = """
table inet kafka {
  chain pre {
    type filter hook prerouting priority mangle; policy accept;
    meta l4proto tcp socket transparent 1 meta mark set 0x200 accept
    %s
  }
}
"""
HANDED_OVER = """
    iifname "%s" meta nfproto ipv4 tcp dport 9092 tproxy ip to 127.0.0.1:%d meta mark set 0x200 accept
    iifname "%s" meta nfproto ipv6 tcp dport 9092 tproxy ip6 to [::1]:%d meta mark set 0x200 accept
    iifname "%s" tcp dport 9092 drop
"""


class KafkaSite:
    """`services` and `broker` are namespaces; `records` is what the proxy told."""

    def __init__(self, services: Mapping[str, Namespace], router: Namespace, broker: Namespace, path: Path) -> None:
        self.services, self.router, self.broker, self.path = services, router, broker, path
        self.records: list[Access] = []
        self.lost = 0
        self._portal: BlockingPortal
        self._server: ProxyServer
        self._running: Future[object]
        self._process: subprocess.Popen[bytes] | None = None

    # ---- rules ----

    def allow(self, service: str, *rules: KafkaRule, everything: bool = False) -> None:
        """What the service may ask, from now on."""
        redirect = None if everything else Redirect(L7Rules("kafka", rules))
        told = Redirection(Direction.EGRESS, 6, PORT, "kafka", (RedirectRule(REFS[service], "spec", redirect),))
        backend = self._server.backend("kafka")
        self._portal.call(backend.apply, {PROXY_PORTS[service]: told}, ())
        assert backend.problems() == {}, backend.problems()

    def forget(self, service: str) -> None:
        """The service's connections are redirected to nobody."""
        self._portal.call(self._server.backend("kafka").apply, {}, (PROXY_PORTS[service],))

    def mission(self) -> None:
        """Service1 may produce to topic1, service2 may consume it, all else is refused."""
        self.allow("service1", KafkaRule(frozenset({0, 3, 18}), topic="topic1"))
        self.allow("service2", KafkaRule(frozenset({1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 18}), topic="topic1"))

    # ---- what happens ----

    def at(self, service: str, work: Callable[[], T]) -> T:
        """What `work` returns, done by the service."""
        return self.services[service].run(work)

    def told(self, *, api: str = "", verdict: Verdict | None = None, phase: Phase = Phase.REQUEST) -> list[Access]:
        """Records of that kind, once those of all that was done have come."""
        time.sleep(0.15)
        found = []
        for one in self.records:
            assert isinstance(one.payload, Kafka)
            if one.phase is phase and verdict in {None, one.verdict} and api in {"", one.payload.api_key}:
                found.append(one)
        return found

    # ---- processes ----

    @contextmanager
    def agent(self) -> Iterator[None]:
        """The agent's side of the channel."""

        def seen(records: list[Access], lost: int) -> None:
            self.records += records
            self.lost += lost

        with start_blocking_portal() as portal:
            self._portal = portal
            self._server = ProxyServer(UnixAddress(str(self.path / "channel.sock")), seen)
            self._running, _ = portal.start_task(self._server.run)
            try:
                yield
            finally:
                self.stop_agent()

    def stop_agent(self) -> None:
        """Nobody listens at the channel any more."""
        if not self._running.done():
            self._running.cancel()
            time.sleep(0.05)

    def start_proxy(self, *arguments: str, connected: bool = True) -> int:
        """The proxy's process id; it has found the agent, if `connected`."""
        command = [
            *("ip", "netns", "exec", self.router.name, sys.executable, "-m", "cplane.proxy.kafka"),
            *("--channel", str(self.path / "channel.sock"), "--rules", str(self.path / "kafka.rules"), *arguments),
        ]
        with open(self.path / "proxy.log", "ab") as log:
            self._process = subprocess.Popen(command, stderr=log, start_new_session=True)
        until = time.monotonic() + 15
        while connected and not self._server.backend("kafka").is_connected:
            assert self._process.poll() is None and time.monotonic() < until, (self.path / "proxy.log").read_text()
            time.sleep(0.01)
        return self._process.pid

    def stop_proxy(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status."""
        assert self._process is not None
        os.kill(self._process.pid, number)
        status = self._process.wait(10)
        self._process = None
        return status

    @property
    def has_proxy(self) -> bool:
        """Whether it was started and not stopped."""
        return self._process is not None


def listening(netns: Namespace, address: str, port: int, timeout_s: float = 15.0) -> None:
    """Returns when somebody takes connections there."""

    def wait() -> None:
        until = time.monotonic() + timeout_s
        while True:
            try:
                socket.create_connection((address, port), timeout=1).close()
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)
            else:
                return

    netns.run(wait)


@contextmanager
def broker_at(netns: Namespace, address: str, path: Path, port: int = PORT) -> Iterator[None]:
    """A broker of noida-db, in memory and below `path`."""
    command = [
        *("ip", "netns", "exec", netns.name, str(Path(sys.executable).parent / "noida-db"), "start"),
        *("--only", "kafka", "--kafka-port", str(port), "--host", address, "--data-dir", str(path / "broker")),
    ]
    with open(path / "broker.log", "ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=path, start_new_session=True)
    try:
        listening(netns, address, port)
        yield
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Nobody of the process's session is left: the command is a script, whose child is the broker."""
    until = time.monotonic() + 5
    number = signal.SIGTERM
    while True:
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        process.poll()
        time.sleep(0.02)
        if time.monotonic() > until:
            number = signal.SIGKILL


def _link(netns: Namespace, router: Namespace, name: str, number: int) -> None:
    router.ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", netns.name)
    router.ip("link", "set", name, "up")
    router.ip("addr", "add", f"10.9.{number}.1/24", "dev", name)
    router.ip("addr", "add", f"fd09:{number}::1/64" if number else "fd09::1/64", "dev", name, "nodad")
    netns.ip("link", "set", "lo", "up")
    netns.ip("link", "set", "eth0", "up")
    netns.ip("addr", "add", f"10.9.{number}.2/24", "dev", "eth0")
    netns.ip("addr", "add", f"fd09:{number}::2/64" if number else "fd09::2/64", "dev", "eth0", "nodad")
    netns.ip("route", "add", "default", "via", f"10.9.{number}.1")
    netns.ip("-6", "route", "add", "default", "via", f"fd09:{number}::1" if number else "fd09::1")


def _forward(router: Namespace) -> None:
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        subprocess.run(
            ["ip", "netns", "exec", router.name, "sysctl", "-qw", f"{name}=1"], check=True, capture_output=True
        )


@contextmanager
def kafka_site(path: Path, *arguments: str, host: str = BROKER) -> Iterator[KafkaSite]:
    """All of it, running, with rules for nobody. `arguments` are the proxy's."""
    with ExitStack() as stack:
        one, two, other, router, broker = stack.enter_context(namespaces(5))
        router.ip("link", "set", "lo", "up")
        _link(broker, router, "broker0", 0)
        services = {"service1": one, "service2": two}
        handed = ""
        for number, (name, netns) in enumerate(services.items(), 1):
            _link(netns, router, name, number)
            handed += HANDED_OVER % (name, PROXY_PORTS[name], name, PROXY_PORTS[name], name)
        _link(other, router, "direct", 3)
        _forward(router)
        for family in ("-4", "-6"):
            router.ip(family, "rule", "add", "fwmark", "0x200/0xf00", "lookup", "2004", "pref", "9")
            router.ip(family, "route", "add", "local", "default", "dev", "lo", "table", "2004")
        subprocess.run(
            ["ip", "netns", "exec", router.name, "nft", "-f", "-"], input=RULESET % handed, text=True, check=True
        )
        stack.enter_context(broker_at(broker, host, path))
        site = KafkaSite({**services, "direct": other}, router, broker, path)
        stack.enter_context(site.agent())
        site.start_proxy(*arguments)
        try:
            yield site
        finally:
            if site.has_proxy:
                site.stop_proxy()
