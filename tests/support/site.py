"""A node in a namespace of its own: an agent, pods made through the plugin, and the world at the end of a cable."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count, permutations
from pathlib import Path
from typing import Any, Final

from tests.support import asking
from tests.support.agent import Agent
from tests.support.netns import Namespace
from tests.support.pods import BRIEF_S, PATIENT_S, Asked, Pod, Pods

PREFIX: Final = "cpe"  # of everything that a site makes outside its folder
CABLE: Final = "up0"
# RFC 5737 and RFC 3849: addresses that are nobody's
NODE4, NODE6 = "198.51.100.1", "2001:db8::1"
WORLD4, WORLD6 = "198.51.100.2", "2001:db8::2"
ROUTER4, ROUTER6 = "10.244.0.1", "fd00:10:244::1"  # the first of the agent's default prefixes
PROTOCOLS: Final = ("tcp", "udp", "icmp")
FAMILIES: Final = (4, 6)
_numbers = count()


class Site:
    """The node `host`, the pods of its agent, and `world`, which is routed to through the node."""

    def __init__(self, folder: Path, programs: Path, **settings: Any) -> None:  # Any: as Agent takes them
        self.name = f"{PREFIX}{os.getpid():x}-{next(_numbers)}"
        self.node = Namespace(f"{self.name}-node")
        self.host = Pod("host", self.node, {}, ROUTER4, ROUTER6)  # what it answers pods with, over UDP too
        self.world = Pod("world", Namespace(f"{self.name}-world"), {}, WORLD4, WORLD6)
        self.agent = Agent(folder, self.name, node=self.node, **settings)
        self.pods = Pods(self.agent, self.name)
        self._programs = programs

    def __getitem__(self, name: str) -> Pod:
        return {"host": self.host, "world": self.world}.get(name) or self.pods[name]

    def build(self) -> None:
        """Namespaces and the cable between them are there, and the agent finds its programs compiled."""
        for one in (self.node, self.world.netns):
            subprocess.run(["ip", "netns", "add", one.name], check=True)
            one.ip("link", "set", "lo", "up")
        self.node.ip("link", "add", CABLE, "type", "veth", "peer", "eth0", "netns", self.world.netns.name)
        for netns, device, ipv4, ipv6 in ((self.node, CABLE, NODE4, NODE6), (self.world.netns, "eth0", WORLD4, WORLD6)):
            netns.ip("address", "add", f"{ipv4}/24", "dev", device)
            netns.ip("address", "add", f"{ipv6}/64", "dev", device, "nodad")
            netns.ip("link", "set", device, "up")
        self.world.netns.ip("route", "add", "default", "via", NODE4)
        self.world.netns.ip("-6", "route", "add", "default", "via", NODE6)
        self.seed(self.agent.state)

    def seed(self, state: Path) -> None:
        """The compiled programs are where an agent with this state folder looks for them."""
        shutil.copytree(self._programs, state / "programs", dirs_exist_ok=True)

    def serve(self) -> None:
        """Host and world answer, as pods do."""
        self.host.serve()
        self.world.serve()

    def apply(self, *documents: str) -> int:
        """The policies are in force. Returns the position."""
        return asking.apply(self.agent, "\n---\n".join(documents))

    def lift(self) -> None:
        """No policy is in force."""
        asking.ask(self.agent, asking.lift_all)

    def unequal(self) -> list[str]:
        """Rows of the kernel's tables that are not as the agent wants them."""
        return asking.ask(self.agent, asking.unequal_rows)

    def questions(self, names: Iterable[str], protocols: Iterable[str] = PROTOCOLS) -> list[Asked]:
        """All that can be asked between the places; what host and world say to each other is none of ours."""
        pairs = [pair for pair in permutations(names, 2) if set(pair) != {"host", "world"}]
        return [Asked(*pair, protocol, family) for pair in pairs for protocol in protocols for family in FAMILIES]

    def wrong(self, rule: Callable[[Asked], bool], questions: Iterable[Asked]) -> list[str]:
        """The questions whose answers are not as the rule says; all are asked at the same time."""
        with ThreadPoolExecutor(16) as asking_them:
            answers = asking_them.map(lambda asked: self._wrong(asked, expected=rule(asked)), questions)
            return [answer for answer in answers if answer]

    def _wrong(self, asked: Asked, *, expected: bool) -> str:
        found = self.reaches(asked, PATIENT_S if expected else BRIEF_S)
        return "" if found is expected else f"{asked}: {'answered' if found else 'not answered'}"

    def reaches(self, asked: Asked, timeout_s: float = PATIENT_S) -> bool:
        """Whether an answer comes."""
        source, target = self[asked.source], self[asked.target]
        return source.reach(target.address(asked.family), asked.protocol, timeout_s=timeout_s)

    def left(self) -> list[str]:
        """Links and routes of pods on the node, pins of links, endpoints that the agent knows."""
        links = [f"link {name}" for name in self.node.interfaces() if name.startswith("lxc")]
        routes = [
            f"route {line}"
            for family in ("-4", "-6")
            for line in self.node.ip(family, "route", "show", "proto", "190").splitlines()
            if "unreachable" not in line
        ]
        pins = [f"pin {path.name}" for path in (self.agent.bpf_root / "links").glob("*")]
        return [*links, *routes, *pins, *(f"endpoint {one}" for one in asking.endpoints(self.agent))]

    def remove(self) -> None:
        """Processes, namespaces and pins are gone. Idempotent; the folder is the caller's."""
        self.host.close()
        self.world.close()
        self.pods.remove()
        self.agent.remove()
        for one in (self.world.netns, self.node):
            with suppress(subprocess.CalledProcessError):
                subprocess.run(["ip", "netns", "delete", one.name], check=True, capture_output=True)


@contextmanager
def site(
    folder: Path,
    programs: Path,
    pods: Iterable[str] = (),
    *,
    start: bool = True,
    **settings: Any,  # Any: as Agent takes them
) -> Iterator[Site]:
    """A site with its agent started and these pods, each labelled `app=<name>`; gone afterwards."""
    made = Site(folder, programs, **settings)
    try:
        made.build()
        if start:
            made.agent.start()
        for name in pods:
            made.pods.add(name)
        yield made
    finally:
        made.remove()


def policy(name: str, subject: str, rules: str, *, namespace: str = "demo") -> str:
    """A CiliumNetworkPolicy about the pods labelled `app=<subject>`; `rules` is the YAML of its sections."""
    indented = "\n".join(f"  {line}" for line in rules.strip("\n").splitlines())
    return f"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  endpointSelector: {{matchLabels: {{app: {subject}}}}}
{indented}
"""
