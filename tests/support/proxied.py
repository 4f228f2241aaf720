"""A client, a server, and between them a router that hands connections to a real Envoy, in namespaces of their own.

nftables does what the datapath does with redirections: connections keep their addresses and come to the proxy port.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from cplane.agent.envoy import Envoy, Settings
from cplane.domain.access import Access
from cplane.domain.policy.http import HttpRule
from cplane.domain.policy.redirect import L7Rules, Redirect, Tls
from cplane.domain.policy.redirection import Redirection, RedirectRule
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.verdict import Direction
from cplane.proxy.envoy import remove_memory
from cplane.proxy.process import end, is_alive, read_identity
from cplane.xds.secrets import Files, Source
from tests.support.netns import Namespace, namespace, without_dad

T = TypeVar("T")

CLIENT, CLIENT6 = "10.71.1.2", "fd71:1::2"
SERVER, SERVER6 = "10.71.2.2", "fd71:2::2"
REF: Final = PolicyRef("CiliumNetworkPolicy", "shop", "api")
PATH: Final = "spec.ingress[0].toPorts[0]"
_ORIGIN: Final = Path(__file__).with_name("http_origin.py")
_PATIENCE_S: Final = 10.0


def http(*rules: HttpRule, ref: PolicyRef = REF, terminating: Tls | None = None, **tls: object) -> RedirectRule:
    """A rule of a policy for HTTP."""
    return RedirectRule(ref, PATH, Redirect(L7Rules("http", rules), None, terminating=terminating, **tls))  # type: ignore[arg-type]


def redirection(
    *rules: RedirectRule, parser: str = "http", port: int = 80, direction: Direction = Direction.EGRESS
) -> Redirection:
    """What a proxy port is for."""
    return Redirection(direction, 6, port, parser, rules)


class Site:
    """Three namespaces in a row, and Envoy with its control plane in the middle one."""

    def __init__(
        self, name: str, folder: Path, stack: ExitStack, concurrency: int = 1, source: Source | None = None
    ) -> None:
        self.client, self.router, self.server = (
            stack.enter_context(namespace(f"{name}-{one}")) for one in ("client", "router", "server")
        )
        self.folder = folder
        self.secrets = folder / "secrets"
        self.seen: list[Access] = []
        self._settings = Settings(folder / "proxy", source or Files(self.secrets), name, concurrency)
        self._agent: Agent | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / "proxy").mkdir(parents=True)
        self._wire()

    @property
    def envoy(self) -> Envoy:
        """The back end under test."""
        assert self._agent is not None
        return self._agent.envoy

    def start(self, node: str = "") -> None:
        """An agent's part is there; it starts Envoy, or finds it. Of another node's name it is another Envoy."""
        if node:
            self._settings = replace(self._settings, node=node)
        self._agent = Agent(self.router, self._settings, self.seen.extend)

    def stop(self) -> None:
        """The agent's part is gone. Envoy goes on."""
        if self._agent is not None:
            self._agent.close()
            self._agent = None

    def apply(self, put: Mapping[int, Redirection], gone: tuple[int, ...] = ()) -> None:
        """Told to Envoy."""
        assert self._agent is not None
        self._agent.portal.call(self.envoy.apply, put, gone)

    def redirect(self, port: int, proxy_port: int) -> None:
        """Connections of the client to that port of the server come to the proxy port."""
        for family, local in (("ip", "127.0.0.1"), ("ip6", "[::1]")):
            rule = f"iifname c0 meta nfproto {'ipv4' if family == 'ip' else 'ipv6'} tcp dport {port}"
            self.nft(f"add rule inet l7 pre {rule} tproxy {family} to {local}:{proxy_port} meta mark set 0x200 accept")
            self.nft(f"add rule inet l7 pre {rule} drop")  # nobody listens

    def nft(self, text: str) -> None:
        """A command of nftables in the router."""
        self.inside(self.router, "nft", text)

    def inside(self, where: Namespace, *command: str, check: bool = True) -> str:
        """What a program says that runs there."""
        done = subprocess.run(
            ["ip", "netns", "exec", where.name, *command], check=False, capture_output=True, timeout=60
        )
        assert not check or done.returncode == 0, (command, done.returncode, done.stdout, done.stderr)
        return done.stdout.decode()

    def origin(self, port: int = 80) -> None:
        """A server that says what it was asked."""
        self.spawn(self.server, sys.executable, str(_ORIGIN), str(port))

    def spawn(self, where: Namespace, *command: str) -> subprocess.Popen[bytes]:
        """A process there that has said `ready`; it is ended at the end."""
        made = subprocess.Popen(["ip", "netns", "exec", where.name, *command], stdout=subprocess.PIPE)
        self._processes.append(made)
        assert made.stdout is not None
        assert made.stdout.readline().startswith(b"ready"), command
        return made

    def since(self, time_ns: int) -> list[Access]:
        """Records of what has happened since then, in their order."""
        return sorted((one for one in tuple(self.seen) if one.time_ns >= time_ns), key=lambda one: one.time_ns)

    def curl(self, *arguments: str) -> str:
        """Status of what curl was answered, and after a line the body."""
        said = self.inside(self.client, "curl", "-sS", "-m", "10", "-w", "\n%{http_code}", *arguments, check=False)
        body, _, code = said.rpartition("\n")
        return f"{code}\n{body}"

    def until(self, check: Callable[[], T], patience_s: float = _PATIENCE_S) -> T:
        """What `check` says as soon as that is true."""
        deadline = time.monotonic() + patience_s
        while not (found := check()):
            assert time.monotonic() < deadline, "it has not come true"
            time.sleep(0.01)
        return found

    def close(self) -> None:
        """Nothing runs any more."""
        self.stop()
        for one in self._processes:
            one.kill()
            one.wait()
            if one.stdout is not None:
                one.stdout.close()
        identity = read_identity(self._settings.folder / "envoy.pid")
        if identity is not None and is_alive(identity):
            anyio.run(end, identity)

        remove_memory(self._settings.folder)

    def kill_envoy(self) -> int:
        """The process id of the Envoy that was killed."""
        identity = read_identity(self._settings.folder / "envoy.pid")
        assert identity is not None
        os.kill(identity.pid, signal.SIGKILL)
        return identity.pid

    def _wire(self) -> None:
        for one in (self.client, self.router, self.server):  # a solicitation waits a second for its sender's address
            one.run(without_dad)
        for side, there, net, net6 in (
            (self.client, "c0", "10.71.1", "fd71:1:"),
            (self.server, "s0", "10.71.2", "fd71:2:"),
        ):
            self.router.ip("link", "add", there, "type", "veth", "peer", "name", "eth0", "netns", side.name)
            self.router.ip("addr", "add", f"{net}.1/24", "dev", there)
            self.router.ip("addr", "add", f"{net6}:1/64", "dev", there, "nodad")
            self.router.ip("link", "set", there, "up")
            side.ip("addr", "add", f"{net}.2/24", "dev", "eth0")
            side.ip("addr", "add", f"{net6}:2/64", "dev", "eth0", "nodad")
            side.ip("link", "set", "eth0", "up")
            side.ip("link", "set", "lo", "up")
            side.ip("route", "add", "default", "via", f"{net}.1")
            side.ip("-6", "route", "add", "default", "via", f"{net6}:1")
        self.router.ip("link", "set", "lo", "up")
        for family in ("-4", "-6"):
            self.router.ip(family, "rule", "add", "fwmark", "0x200/0xf00", "lookup", "2004", "pref", "9")
            self.router.ip(family, "route", "add", "local", "default", "dev", "lo", "table", "2004")
        self.inside(self.router, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        self.nft("add table inet l7; add chain inet l7 pre { type filter hook prerouting priority -150; }")
        self.nft("add rule inet l7 pre iifname s0 meta l4proto tcp socket transparent 1 meta mark set 0x200 accept")


class Agent:
    """What the agent has of Envoy, in an event loop of its own in a namespace."""

    def __init__(self, where: Namespace, settings: Settings, seen: Callable[[list[Access]], None]) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=where.run, args=(lambda: anyio.run(self._run, settings, seen),))
        self._thread.start()
        assert self._ready.wait(_PATIENCE_S)

    async def _run(self, settings: Settings, seen: Callable[[list[Access]], None]) -> None:
        self.envoy = Envoy(settings, seen)
        async with BlockingPortal() as self.portal, anyio.create_task_group() as group:
            group.start_soon(self.envoy.run)
            self._ready.set()
            await self.portal.sleep_until_stopped()
            group.cancel_scope.cancel()

    def close(self) -> None:
        """The loop has ended."""
        self.portal.call(self.portal.stop)
        self._thread.join()


@contextmanager
def site(name: str, folder: Path, *, concurrency: int = 1, source: Source | None = None) -> Iterator[Site]:
    """A site whose agent is started; nothing of it is left. Secrets are files of its own where no source is given."""
    with ExitStack() as stack:
        made = Site(name, folder, stack, concurrency, source)
        stack.callback(made.close)
        made.start()
        yield made
