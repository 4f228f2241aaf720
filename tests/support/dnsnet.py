"""A client, a node with the DNS proxy, and a server, in namespaces; what the client asks is redirected by nftables."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from tests.support.netns import Namespace, namespaces, without_dad
from tests.support.tree import ROOT

T = TypeVar("T")
PORT = 10053
CLIENT4, CLIENT6 = "10.91.1.2", "fd91:1::2"
SERVER4, SERVER6 = "10.91.2.2", "fd91:2::2"
_NODE = {"c": ("10.91.1.1", "fd91:1::1"), "s": ("10.91.2.1", "fd91:2::1")}
_RULES = """
table inet cpdns {
  chain ours {
    meta mark set 0x200 accept
  }
  chain steer {
    type filter hook prerouting priority mangle;
    iifname "c" meta nfproto ipv4 meta l4proto { tcp, udp } th dport 53 tproxy ip to 127.0.0.1:PORT goto ours
    iifname "c" meta nfproto ipv6 meta l4proto { tcp, udp } th dport 53 tproxy ip6 to [::1]:PORT goto ours
    iifname "c" meta l4proto { tcp, udp } th dport 53 drop
    iifname "s" meta l4proto { tcp, udp } socket transparent 1 goto ours
  }
}
"""


class DnsNet:
    """The namespaces, and the proxy that runs in the one of the node."""

    def __init__(self, client: Namespace, node: Namespace, server: Namespace, folder: Path) -> None:
        self.client, self.node, self.server, self.folder = client, node, server, folder
        self.channel, self.rules = folder / "channel.sock", folder / "dns.rules"
        self.proxy: subprocess.Popen[bytes] | None = None

    def start_proxy(self, *arguments: str) -> None:
        """The proxy's process is there; its ports may not be yet."""
        command = ["-m", "cplane.proxy.dns", "--channel", str(self.channel), "--rules", str(self.rules), *arguments]
        self.proxy = self.spawn(self.node, [sys.executable, *command])

    def stop_proxy(self, *, kill: bool = False) -> None:
        """The process has ended."""
        if self.proxy is not None:
            self.proxy.kill() if kill else self.proxy.terminate()
            self.proxy.wait()
            self.proxy = None

    def spawn(self, where: Namespace, command: Sequence[str], **more: object) -> subprocess.Popen[bytes]:
        """A process in a namespace."""
        return subprocess.Popen(["ip", "netns", "exec", where.name, *command], cwd=ROOT, **more)  # type: ignore[call-overload, no-any-return]

    def run(self, *command: str, timeout_s: float = 20) -> subprocess.CompletedProcess[str]:
        """A command of the client."""
        full = ["ip", "netns", "exec", self.client.name, *command]
        return subprocess.run(full, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=ROOT)

    def dig(self, *arguments: str, server: str = SERVER4) -> str:
        """What dig says, the answer alone where `+short` is asked for."""
        return self.run("dig", f"@{server}", "+tries=1", "+time=2", *arguments).stdout.strip()

    def until_served(self, port: int = PORT, timeout_s: float = 10.0) -> None:
        """The proxy listens at the port."""
        wanted = f"127.0.0.1:{port}"
        eventually(lambda: wanted in self.inside(self.node, "ss", "-Hlnt"), timeout_s)

    def inside(self, where: Namespace, *command: str) -> str:
        """What a command there says."""
        full = ["ip", "netns", "exec", where.name, *command]
        return subprocess.run(full, capture_output=True, text=True, check=True).stdout


def eventually(holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """It holds within that time."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


@contextmanager
def dns_net(
    folder: Path, port: int = PORT, *, server: Sequence[str] = ("-m", "tests.support.dnsserver")
) -> Iterator[DnsNet]:
    """All of it with the server, without the proxy; gone afterwards."""
    with ExitStack() as stack:
        client, node, far = stack.enter_context(namespaces(3))
        for one in (client, node, far):
            one.run(without_dad)  # a solicitation waits for its sender's address
            one.ip("link", "set", "lo", "up")
        for device, peer, ends in (("c", client, (CLIENT4, CLIENT6)), ("s", far, (SERVER4, SERVER6))):
            node.ip("link", "add", device, "type", "veth", "peer", "eth0", "netns", peer.name)
            for where, name, addresses in ((node, device, _NODE[device]), (peer, "eth0", ends)):
                where.ip("address", "add", f"{addresses[0]}/24", "dev", name)
                where.ip("address", "add", f"{addresses[1]}/64", "dev", name, "nodad")
                where.ip("link", "set", name, "up")
            peer.ip("route", "add", "default", "via", _NODE[device][0])
            peer.ip("-6", "route", "add", "default", "via", _NODE[device][1])
        for setting in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
            _run(node, "sysctl", "-qw", setting)
        for family in ("-4", "-6"):
            node.ip(family, "rule", "add", "fwmark", "0x200/0xf00", "lookup", "2004", "pref", "9")
            everything = "0.0.0.0/0" if family == "-4" else "::/0"
            node.ip(family, "route", "add", "local", everything, "dev", "lo", "table", "2004")
        _run(node, "nft", "-f", "-", text=_RULES.replace("PORT", str(port)))
        net = DnsNet(client, node, far, folder)
        serving = net.spawn(far, [sys.executable, *server, SERVER4, SERVER6], stdout=subprocess.PIPE)
        try:
            assert serving.stdout is not None
            assert serving.stdout.readline() == b"serving\n"
            yield net
        finally:
            net.stop_proxy(kill=True)
            serving.kill()
            serving.wait()
            if serving.stdout is not None:
                serving.stdout.close()


def _run(where: Namespace, *command: str, text: str = "") -> None:
    subprocess.run(["ip", "netns", "exec", where.name, *command], check=True, input=text.encode())
