"""An agent is killed fifty times in a storm of commands: what it acknowledged stays, the kernel follows the log."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
from grpclib.exceptions import GRPCError, StreamTerminatedError

from cplane.errors import Unavailable
from cplane.eventlog.verify import verify_file
from cplane.events.endpoint import EndpointCreated, EndpointDeleted, EndpointRelabelled
from cplane.events.envelope import Envelope
from cplane.events.policy import PolicyDeleted, PolicyUpserted
from cplane.pb.cplane.admin import v1 as pb
from cplane.transport.client import ClientChannel
from tests.support import asking, pinned
from tests.support.pods import Pod
from tests.support.site import Site, policy, site

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

SEED = 50
KILLS = 50
STORM_S = (0.02, 0.4)  # how long a storm goes on before the agent is killed
SAME_COMMAND = 64  # positions; what follows from one command is never more events than that here
STEADY = policy("steady", "two", "ingress:\n- fromEndpoints: [{matchLabels: {app: one}}]")
STEADY_PODS = ("one", "two", "three")
COMING_AND_GOING = ("a", "b", "c", "d", "e", "f")
POLICIES = 12


class Gate:
    """Clients work while it is open; when `shut` returns, none does."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._open, self._over, self._inside = False, False, 0

    def enter(self) -> bool:
        """Waits until it is open. False: it will not be again."""
        with self._condition:
            self._condition.wait_for(lambda: self._open or self._over)
            if self._over:
                return False
            self._inside += 1
            return True

    def leave(self) -> None:
        """The client works no more."""
        with self._condition:
            self._inside -= 1
            self._condition.notify_all()

    def open(self) -> None:
        """Clients may work."""
        with self._condition:
            self._open = True
            self._condition.notify_all()

    def shut(self) -> None:
        """No client works."""
        with self._condition:
            self._open = False
            self._condition.wait_for(lambda: not self._inside)

    def end(self) -> None:
        """Clients go home."""
        with self._condition:
            self._over = True
            self._condition.notify_all()


@dataclass(frozen=True)
class Promise:
    """What the log must have, at a position that a client was told or before it, where there is one."""

    what: str
    kept_by: Callable[[Envelope], bool]
    position: int = 0


@dataclass
class Storm:
    """Concurrent clients of one agent, and what it promised them."""

    place: Site
    gate: Gate = field(default_factory=Gate)
    promises: list[Promise] = field(default_factory=list)
    attached: dict[str, tuple[str, str] | None] = field(default_factory=dict)  # addresses; None: deleted
    failures: list[str] = field(default_factory=list)
    _serial: Iterator[int] = field(default_factory=lambda: count(1))

    def work(self, once: Callable[[random.Random], None], seed: int) -> None:
        """One client, until the storm is over. What an agent that dies does to it is no failure."""
        chance = random.Random(seed)
        while self.gate.enter():
            try:
                once(chance)
            except (Unavailable, StreamTerminatedError, ConnectionError, GRPCError, TimeoutError) as error:
                if isinstance(error, GRPCError) and error.status.name not in {"NOT_FOUND", "UNAVAILABLE"}:
                    self.failures.append(repr(error))
            except BaseException as error:
                self.failures.append(repr(error))
                raise
            finally:
                self.gate.leave()

    def change_policy(self, chance: random.Random) -> None:
        """A policy is applied, or another one is deleted."""
        name, serial = f"p{chance.randrange(POLICIES)}", next(self._serial)
        if chance.random() < 0.7:
            self._apply(name, serial, chance)
        else:
            self._delete(name)

    def _apply(self, name: str, serial: int, chance: random.Random) -> None:
        peer = chance.choice(
            ('fromCIDR: ["203.0.113.0/24"]', "fromEntities: [world]", f'fromCIDR: ["10.9.{serial % 200}.0/24"]')
        )
        subject = chance.choice((*COMING_AND_GOING, "three"))
        document = policy(name, subject, f'description: "storm {serial}"\ningress:\n- {peer}')

        async def apply(channel: ClientChannel) -> int:
            answer = await pb.PolicyServiceStub(channel).apply(pb.ApplyPolicyRequest(documents=document.encode()))
            return answer.position

        def kept_by(one: Envelope) -> bool:
            return isinstance(one.event, PolicyUpserted) and f'"storm {serial}"' in one.event.document

        self.promises.append(Promise(f"policy {name}, storm {serial}", kept_by, asking.ask(self.place.agent, apply)))

    def _delete(self, name: str) -> None:
        async def delete(channel: ClientChannel) -> int:
            ref = pb.PolicyRef(kind="CiliumNetworkPolicy", namespace="demo", name=name)
            answer = await pb.PolicyServiceStub(channel).delete(pb.DeletePolicyRequest(refs=[ref]))
            return answer.position

        def kept_by(one: Envelope) -> bool:
            return isinstance(one.event, PolicyDeleted) and one.event.name == name

        self.promises.append(Promise(f"policy {name} deleted", kept_by, asking.ask(self.place.agent, delete)))

    def relabel(self, chance: random.Random) -> None:
        """A pod that stays has other labels."""
        serial, number = next(self._serial), chance.choice((1, 2))

        async def relabel(channel: ClientChannel) -> int:
            endpoints = pb.EndpointServiceStub(channel)
            found = (await endpoints.get(pb.GetEndpointRequest(id=number))).endpoint
            assert found is not None
            others = [label for label in found.labels if not label.startswith("k8s:serial=")]
            request = pb.RelabelEndpointRequest(id=number, labels=[*others, f"serial={serial}"])
            return (await endpoints.relabel(request)).position

        def kept_by(one: Envelope) -> bool:
            return isinstance(one.event, EndpointRelabelled) and f"k8s:serial={serial}" in one.event.labels

        self.promises.append(Promise(f"labels, serial {serial}", kept_by, asking.ask(self.place.agent, relabel)))

    def attach_or_detach(self, pods: list[Pod]) -> Callable[[random.Random], None]:
        """A client that adds and deletes these pods, each in its turn."""

        def once(chance: random.Random) -> None:
            pod = chance.choice(pods)
            container = self.place.pods.container(pod.name)
            if self.attached.get(container) is not None:
                # Whether it succeeds or not, the pod is not known to be there any more.
                del self.attached[container]
                if self.place.pods.client.delete(container, pod.netns.path).ok:
                    self.attached[container] = None
                return
            self.attached.pop(container, None)
            if self.place.pods.attach(pod).ok:
                self.attached[container] = (pod.ipv4, pod.ipv6)
                self.promises.append(Promise(f"pod {container} with {pod.ipv4}", _created(container, pod.ipv4)))

        return once

    @contextmanager
    def clients(self) -> Iterator[None]:
        """All clients, at home afterwards."""
        pods = [self.place.pods[name] for name in COMING_AND_GOING]
        work = [self.change_policy] * 3 + [self.relabel]
        work += [self.attach_or_detach(pods[:3]), self.attach_or_detach(pods[3:])]
        threads = [threading.Thread(target=self.work, args=(once, SEED + number)) for number, once in enumerate(work)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.gate.end()
            for thread in threads:
                thread.join()

    def broken(self, history: list[Envelope]) -> list[str]:
        """Promises that the log does not keep."""
        found = []
        for promise in self.promises:
            end = promise.position or len(history)
            start = max(0, promise.position - SAME_COMMAND) if promise.position else 0
            if end > len(history) or not any(promise.kept_by(one) for one in history[start:end]):
                found.append(f"{promise.what} at {promise.position} of {len(history)}")
        return found

    def astray(self, history: list[Envelope]) -> list[str]:
        """Pods that are there and should not be, or the other way round."""
        there: dict[str, tuple[str, str]] = {}
        containers: dict[int, str] = {}
        for one in history:
            if isinstance(one.event, EndpointCreated):
                containers[one.event.endpoint] = one.event.container_id
                there[one.event.container_id] = (one.event.ipv4, one.event.ipv6)
            elif isinstance(one.event, EndpointDeleted):
                there.pop(containers[one.event.endpoint], None)
        return [
            f"{name}: {there.get(name)}, not {wanted}"
            for name, wanted in self.attached.items()
            if there.get(name) != wanted
        ]


def _created(container: str, ipv4: str) -> Callable[[Envelope], bool]:
    def kept_by(one: Envelope) -> bool:
        event = one.event
        return isinstance(event, EndpointCreated) and (event.container_id, event.ipv4) == (container, ipv4)

    return kept_by


def check(storm: Storm) -> None:
    """Nothing that was promised is missing, and the kernel has what the agent made of its verified log."""
    place = storm.place
    assert storm.failures == []
    history = pinned.envelopes(place.agent.state / "log.db")
    assert storm.broken(history) == []
    assert storm.astray(history) == []
    assert place.unequal() == []
    assert pinned.position(place.agent.bpf_root) == history[-1].position
    links = {name for name in place.node.interfaces() if name.startswith("lxc")}
    assert len(links) == len(asking.endpoints(place.agent))


def check_without_the_agent(place: Site) -> None:
    """The log is sound, and the kernel has what it leads to."""
    log = place.agent.state / "log.db"
    assert verify_file(str(log)).fault == ""
    assert pinned.tables(place.agent.bpf_root) == pinned.recomputed(pinned.envelopes(log))


def test_fifty_kills_in_a_storm_lose_nothing_that_was_acknowledged(programs: Path, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    with site(tmp_path, programs, STEADY_PODS) as place:
        place.apply(STEADY)
        for name in COMING_AND_GOING:
            place.pods.add(name, serve=False)
        storm = Storm(place)
        one, two, three = (place[name] for name in STEADY_PODS)
        with storm.clients():
            for number in range(KILLS):
                storm.gate.open()
                time.sleep(chance.uniform(*STORM_S))  # the instant is random on purpose
                place.agent.kill()
                storm.gate.shut()
                assert one.reach(two.address(number % 2 * 2 + 4))
                assert not three.reach(two.address(number % 2 * 2 + 4), "udp", timeout_s=0.1)
                place.agent.start()
                check(storm)
                if not number % 5:
                    check_without_the_agent(place)
        check_without_the_agent(place)
        assert len(storm.promises) > KILLS
        assert place.agent.cplane("log", "verify").returncode == 0
        for name in COMING_AND_GOING:
            assert place.pods.delete(name).ok
        for name in STEADY_PODS:
            assert place.pods.delete(name).ok
        assert place.left() == []
