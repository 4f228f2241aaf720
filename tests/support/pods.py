"""Pods made through the CNI plugin: a namespace each, a server in it, and questions about who reaches whom."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.agent import BIN, Agent
from tests.support.cni_client import CniClient, Reply
from tests.support.netns import Namespace, ping
from tests.support.tree import ROOT

PORT: Final = 8080
PATIENT_S: Final = 5.0  # for what should work, on a busy machine
BRIEF_S: Final = 0.6  # for what should not: below TCP's first retransmission, which comes after 1 s
PLUGIN: Final = (str(BIN / "cplane-cni"),)
_SERVER: Final = Path(__file__).with_name("pod_server.py")


def installed(folder: Path) -> tuple[str, ...]:
    """The plugin where a runtime would look for it."""
    done = subprocess.run([*PLUGIN, "install", str(folder)], env={}, capture_output=True, text=True, check=True)
    return (done.stdout.strip(),)


class Asked(NamedTuple):
    """A question: does `source` reach `target` by `protocol` (tcp, udp or icmp) over IP `family` (4 or 6)?"""

    source: str
    target: str
    protocol: str
    family: int

    def __str__(self) -> str:
        return f"{self.source} → {self.target} {self.protocol.upper()} IPv{self.family}"


@dataclass
class Pod:
    """A pod as a runtime would have it: its namespace, what the plugin answered, and its server's process."""

    name: str
    netns: Namespace
    labels: Mapping[str, str]
    ipv4: str = ""
    ipv6: str = ""
    named_ports: Mapping[str, str] = field(default_factory=dict)
    host_interface: str = ""
    server: subprocess.Popen[str] | None = None
    connections: list[socket.socket] = field(default_factory=list)

    def address(self, family: int) -> str:
        """The pod's address of that family."""
        return self.ipv4 if family == 4 else self.ipv6

    def serve(self, port: int = PORT, *, named: bool = False) -> None:
        """A server answers in the pod, over TCP and UDP; one that is `named` says which pod it is."""
        self._serve("ready", "-I", "-S", str(_SERVER), str(port), *([self.name] if named else []))

    def serve_names(self) -> None:
        """A DNS server answers in the pod."""
        self._serve("serving", "-m", "tests.support.dnsserver", self.ipv4, self.ipv6)

    def _serve(self, word: str, *arguments: str) -> None:
        self.server = subprocess.Popen(
            ["nsenter", f"--net={self.netns.path}", "--", sys.executable, *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.server.stdout is not None
        said = self.server.stdout.readline()
        assert said == f"{word}\n", f"the server in {self.name} said {said!r}"

    def connect(self, address: str, port: int = PORT, timeout_s: float = PATIENT_S) -> "Conversation":
        """An open TCP connection from the pod. Raises OSError."""

        def inside() -> socket.socket:
            return socket.create_connection((address, port), timeout_s)

        made = self.netns.run(inside)
        self.connections.append(made)
        return Conversation(made)

    def reach(self, address: str, protocol: str = "tcp", *, port: int = PORT, timeout_s: float = PATIENT_S) -> bool:
        """Whether an answer comes from there, by tcp, udp or icmp."""
        if protocol == "icmp":
            return self.netns.run(lambda: ping(address, timeout_s))
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM

        def inside() -> bool:
            with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as asking:
                asking.settimeout(timeout_s)
                try:
                    asking.connect((address, port))
                    asking.sendall(b"hello\n")
                    return asking.recv(16) == b"hello\n"
                except OSError:
                    return False

        return self.netns.run(inside)

    def close(self) -> None:
        """Its server and connections are gone."""
        for one in self.connections:
            one.close()
        self.connections.clear()
        if self.server is not None:
            self.server.kill()
            self.server.wait()
            if self.server.stdout is not None:
                self.server.stdout.close()
            self.server = None


class Conversation:
    """An open connection to a pod's server."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._said = 0

    def goes_on(self, timeout_s: float = PATIENT_S) -> bool:
        """Whether something said now is answered. After a failure the connection may still catch up."""
        self._said += 1
        said = b"%08d\n" % self._said
        self._connection.settimeout(timeout_s)
        try:
            self._connection.sendall(said)
            heard = b""
            while not heard.endswith(said):
                more = self._connection.recv(64)
                if not more:
                    return False
                heard += more
        except OSError:
            return False
        return True


class Pods:
    """The pods of one agent, by name."""

    def __init__(self, agent: Agent, prefix: str, *, plugin: tuple[str, ...] = PLUGIN) -> None:
        self.agent, self._prefix = agent, prefix
        self.client = CniClient(f"{agent.run_dir}/cni.sock", network="cplane", plugin=plugin, by_environment=True)
        self.by_name: dict[str, Pod] = {}

    def __getitem__(self, name: str) -> Pod:
        return self.by_name[name]

    def __iter__(self) -> Iterator[Pod]:
        return iter(self.by_name.values())

    def add(
        self,
        name: str,
        *,
        namespace: str = "demo",
        serve: bool = True,
        named_ports: Mapping[str, str] | None = None,
        **labels: str,
    ) -> Pod:
        """A pod exists, is attached by the plugin, and serves."""
        netns = Namespace(f"{self._prefix}-{name}")
        subprocess.run(["ip", "netns", "add", netns.name], check=True)
        pod = self.by_name[name] = Pod(name, netns, labels or {"app": name}, named_ports=named_ports or {})
        netns.ip("link", "set", "lo", "up")
        attached = self.attach(pod, namespace)
        assert attached.ok, f"CNI ADD {name}: {attached.document} {attached.stderr}"
        if serve:
            pod.serve()
        return pod

    def attach(self, pod: Pod, namespace: str = "demo") -> Reply:
        """CNI ADD for the pod, whose addresses are then known."""
        ours = {"labels": dict(pod.labels), "namespace": namespace, "pod": pod.name}
        told = {"cplane": {**ours, **({"namedPorts": dict(pod.named_ports)} if pod.named_ports else {})}}
        reply = self.client.run(
            "ADD",
            self.client.config(args=told),
            container=self.container(pod.name),
            netns=pod.netns.path,
            interface="eth0",
        )
        if reply.ok:
            self.client.results[self.container(pod.name), "eth0"] = reply.document
            pod.ipv4, pod.ipv6 = (one["address"].partition("/")[0] for one in reply.document["ips"])
            pod.host_interface = reply.document["interfaces"][0]["name"]
        return reply

    def container(self, name: str) -> str:
        """The container id that the plugin is given."""
        return f"{self._prefix}-{name}"

    def delete(self, name: str) -> Reply:
        """CNI DEL, and the pod's namespace is gone."""
        pod = self.by_name[name]
        reply = self.client.delete(self.container(name), pod.netns.path)
        self.drop(name)
        return reply

    def drop(self, name: str) -> None:
        """The pod's processes and namespace are gone, whatever the agent knows. Idempotent."""
        pod = self.by_name.pop(name, None)
        if pod is not None:
            pod.close()
            if Path(pod.netns.path).exists():
                subprocess.run(["ip", "netns", "delete", pod.netns.name], check=True)

    def remove(self) -> None:
        """Every pod is dropped. Idempotent."""
        for name in list(self.by_name):
            self.drop(name)

    def questions(self, protocols: Iterable[str] = ("tcp", "icmp")) -> list[Asked]:
        """Everything that can be asked between two pods."""
        pairs = permutations(self.by_name, 2)
        return [Asked(*pair, protocol, family) for pair in pairs for protocol in protocols for family in (4, 6)]

    def answer(self, asked: Asked, *, expected: bool) -> bool:
        """Whether it does reach; what is expected to gets more time."""
        address = self[asked.target].address(asked.family)
        return self[asked.source].reach(address, asked.protocol, timeout_s=PATIENT_S if expected else BRIEF_S)

    def matrix(self, expected: Mapping[Asked, bool]) -> dict[Asked, bool]:
        """The answers to all questions of `expected`, asked at the same time."""
        with ThreadPoolExecutor(16) as asking:
            answers = asking.map(lambda pair: self.answer(pair[0], expected=pair[1]), expected.items())
            return dict(zip(expected, answers, strict=True))


@contextmanager
def node(name: str) -> Iterator[Namespace]:
    """A namespace in which an agent can run: empty, lo up; gone afterwards with every device in it."""
    made = Namespace(name)
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        made.ip("link", "set", "lo", "up")
        yield made
    finally:
        with suppress(subprocess.CalledProcessError):
            subprocess.run(["ip", "netns", "delete", name], check=True)


@contextmanager
def pods(agent: Agent, prefix: str = "") -> Iterator[Pods]:
    """Pods of an agent; gone afterwards, from the kernel at least."""
    made = Pods(agent, prefix or f"cpt{os.getpid():x}")
    try:
        yield made
    finally:
        made.remove()
