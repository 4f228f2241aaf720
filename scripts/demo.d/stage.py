"""Where the demo plays: namespaces, a bpffs folder and a sub-cgroup of its own, or memory where there is no root."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import permutations
from pathlib import Path
from typing import Final, Protocol

from datapath.kernel.datapath import remove
from tests.support import cgroup
from tests.support.agent import Agent
from tests.support.cni_client import CniClient, Reply
from tests.support.netns import Namespace
from tests.support.pods import PLUGIN, PORT, Asked, Pods

NAME: Final = "cplane-demo"
PODS: Final = ("frontend", "backend", "visitor")
_KEPT: Final = "kept.json"
_PROTOCOLS: Final = {
    ("tcp", 4): ("tcp", PORT),
    ("tcp", 6): ("tcp", PORT),
    ("icmp", 4): ("icmp", 8),
    ("icmp", 6): ("icmpv6", 128),
}


class Stage(Protocol):
    """What the story needs of the place where it plays."""

    agent: Agent
    name: str
    real: bool

    def open(self) -> None:
        """The place is there; the agent is not started."""
        ...

    def add(self, name: str) -> Reply:
        """CNI ADD: a pod labelled `app=<name>`."""
        ...

    def delete(self, name: str) -> Reply:
        """CNI DEL."""
        ...

    def address(self, name: str, family: int) -> str:
        """A pod's address."""
        ...

    def matrix(self, expected: Mapping[Asked, bool]) -> dict[Asked, bool]:
        """Who does reach whom."""
        ...

    def close(self) -> list[str]:
        """Nothing of it is left; returns what is left all the same. Idempotent."""
        ...

    def keep(self) -> None:
        """Everything stays, and `stop_kept` finds it."""
        ...


def everything() -> list[Asked]:
    """All that can be asked between the pods."""
    return [Asked(*pair, protocol, f) for pair in permutations(PODS, 2) for protocol in ("tcp", "icmp") for f in (4, 6)]


class KernelStage:
    """Real packets: a node in a namespace of its own, three pods attached to it."""

    real = True

    def __init__(self) -> None:
        self.name = f"{NAME}-{os.getpid()}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"{NAME}-"))
        self.node = Namespace(f"{self.name}-node")
        self.group = cgroup.SubGroup(None)
        self.agent = Agent(self.folder, self.name, node=self.node)
        self.pods = Pods(self.agent, self.name)

    def open(self) -> None:
        """The node's namespace and the cgroup are there."""
        self.group = self.agent.group = cgroup.make(self.name)
        subprocess.run(["ip", "netns", "add", self.node.name], check=True)
        self.node.ip("link", "set", "lo", "up")

    def add(self, name: str) -> Reply:
        """A namespace, CNI ADD, and a server in it."""
        pod = self.pods.add(name, app=name)
        assert pod.server is not None
        self.group.add(pod.server.pid)
        return Reply(0, self.pods.client.results[self.pods.container(name), "eth0"], "")

    def delete(self, name: str) -> Reply:
        """CNI DEL, and the namespace is gone."""
        return self.pods.delete(name)

    def address(self, name: str, family: int) -> str:
        """A pod's address."""
        return self.pods[name].address(family)

    def matrix(self, expected: Mapping[Asked, bool]) -> dict[Asked, bool]:
        """Connections and echo requests, all at the same time."""
        return self.pods.matrix(expected)

    def close(self) -> list[str]:
        """Processes, namespaces, pins, cgroup and folder are gone."""
        self.pods.remove()
        self.agent.remove()
        with suppress(subprocess.CalledProcessError):
            subprocess.run(["ip", "netns", "delete", self.node.name], check=True, capture_output=True)
        self.group.remove()
        shutil.rmtree(self.folder, ignore_errors=True)
        places = (Path("/run/netns"), Path("/sys/fs/bpf"), *((self.group.path.parent,) if self.group.path else ()))
        return [str(path) for place in places for path in place.glob(f"{self.name}*")]

    def keep(self) -> None:
        """Written down for `stop_kept`."""
        servers = [pod.server.pid for pod in self.pods if pod.server]
        _write_kept(self.folder, self.name, [self.agent.pid, *servers], self.group.path)


class MemoryStage:
    """No packets: the same agent, plugin and commands, and a datapath that is asked what it would do."""

    real = False

    def __init__(self) -> None:
        self.name = f"{NAME}-{os.getpid()}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"{NAME}-"))
        self.agent = Agent(self.folder, self.name, datapath="memory")
        self._client = CniClient(f"{self.agent.run_dir}/cni.sock", network="cplane", plugin=PLUGIN, by_environment=True)
        self._addresses: dict[str, dict[int, str]] = {}

    def open(self) -> None:
        """There is nothing to make."""

    def add(self, name: str) -> Reply:
        """CNI ADD, for a namespace that nobody made."""
        told = {"cplane": {"labels": {"app": name}, "namespace": "demo", "pod": name}}
        container, netns = f"{self.name}-{name}", f"/run/netns/{self.name}-{name}"
        config = self._client.config(args=told)
        reply = self._client.run("ADD", config, container=container, netns=netns, interface="eth0")
        if reply.ok:
            found = [one["address"].partition("/")[0] for one in reply.document["ips"]]
            self._addresses[name] = {6 if ":" in address else 4: address for address in found}
        return reply

    def delete(self, name: str) -> Reply:
        """CNI DEL."""
        return self._client.delete(f"{self.name}-{name}")

    def address(self, name: str, family: int) -> str:
        """A pod's address."""
        return self._addresses[name][family]

    def matrix(self, expected: Mapping[Asked, bool]) -> dict[Asked, bool]:
        """`cplane probe` for each, a few at a time."""
        with ThreadPoolExecutor(os.cpu_count() or 1) as asking:
            return dict(zip(expected, asking.map(self._probe, expected), strict=True))

    def _probe(self, asked: Asked) -> bool:
        source, target = self.address(asked.source, asked.family), self.address(asked.target, asked.family)
        protocol, port = _PROTOCOLS[asked.protocol, asked.family]
        answer = self.agent.ask("probe", source, target, "--protocol", protocol, "--port", str(port))
        return bool(answer["forwarded"])

    def close(self) -> list[str]:
        """Process and folder are gone."""
        self.agent.remove()
        shutil.rmtree(self.folder, ignore_errors=True)
        return [str(self.folder)] if self.folder.exists() else []

    def keep(self) -> None:
        """Written down for `stop_kept`."""
        _write_kept(self.folder, self.name, [self.agent.pid], None)


def _write_kept(folder: Path, name: str, pids: list[int], group: Path | None) -> None:
    kept = {"name": name, "processes": {pid: _started(pid) for pid in pids}, "cgroup": str(group or "")}
    (folder / _KEPT).write_text(json.dumps(kept))


def stop_kept() -> list[str]:
    """Every demo that was kept is gone. Returns their names."""
    stopped = []
    for file in sorted(Path(tempfile.gettempdir()).glob(f"{NAME}-*/{_KEPT}")):
        if file.stat().st_uid != os.geteuid():
            continue  # somebody else's, who will stop it
        kept = json.loads(file.read_text())
        for pid, started in kept["processes"].items():
            if _started(int(pid)) == started:  # a number is used again one day, the pair is not
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        _remove(kept["name"], Path(kept["cgroup"]) if kept["cgroup"] else None)
        shutil.rmtree(file.parent, ignore_errors=True)
        stopped.append(kept["name"])
    return stopped


def _remove(name: str, group: Path | None) -> None:
    for path in Path("/run/netns").glob(f"{name}-*"):
        subprocess.run(["ip", "netns", "delete", path.name], check=True)
    if os.geteuid() == 0:
        remove(Path("/sys/fs/bpf") / name)
    cgroup.SubGroup(group).remove()


def _started(pid: int) -> str:
    """When the process started, in the kernel's ticks; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
