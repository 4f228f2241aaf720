"""The policies that suites load: a thousand rules about every endpoint of a full node, and one that denies."""

import json
import time
from typing import Final, NamedTuple

from rig import Bed

from cplane.pb.cplane.admin import v1 as pb
from cplane.transport.client import ClientChannel
from tests.support import asking

ENDPOINTS: Final = 65
RULES: Final = 1000
NAMESPACE: Final = "demo"
_PORTS: Final = 4  # in each rule, so a thousand rules are about four thousand entries of an endpoint's policy
_FIRST_PORT: Final = 10_000
OPEN: Final = range(_FIRST_PORT, _FIRST_PORT + RULES // ENDPOINTS * _PORTS)
"""The ports at which all endpoints may reach each other by the thousand rules."""
_LOADED: Final = "loaded"
_WAIT_NS: Final = 60_000_000_000


def fill(bed: Bed) -> None:
    """The node has so many endpoints, each with labels, and so an identity and a policy, of its own."""
    for index in range(ENDPOINTS):
        bed.add(app(index), _LOADED)
        if (index + 1) % 20 == 0:
            bed.rig.say(f"  {index + 1} of {ENDPOINTS} endpoints")


def app(index: int) -> str:
    """Name of the pod, and of the application in its labels."""
    return f"app{index}"


def thousand() -> bytes:
    """So many CiliumNetworkPolicies of one rule each, all about all of the endpoints, as a list."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [_rule(index) for index in range(RULES)]}).encode()


def deny(name: str, subject: str, peer: str) -> bytes:
    """The pods `app=<subject>` take nothing from the pods `app=<peer>`; all else stays as it is."""
    return f"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: {name}
  namespace: {NAMESPACE}
spec:
  endpointSelector:
    matchLabels:
      app: {subject}
  enableDefaultDeny:
    ingress: false
  ingressDeny:
    - fromEndpoints:
        - matchLabels:
            app: {peer}
""".encode()


def allow(name: str, subject: str, peer: str, protocol: str, ports: range) -> bytes:
    """The pods `app=<subject>` take these from the pods `app=<peer>`, and nothing that no other policy allows."""
    return f"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: {name}
  namespace: {NAMESPACE}
spec:
  endpointSelector:
    matchLabels:
      app: {subject}
  ingress:
    - fromEndpoints:
        - matchLabels:
            app: {peer}
      toPorts:
        - ports:
            - port: "{ports.start}"
              endPort: {ports.stop - 1}
              protocol: {protocol}
""".encode()


class Loaded(NamedTuple):
    """When policies were asked for, of CLOCK_MONOTONIC, and how long it took until all of them were enforced."""

    asked_ns: int
    took_s: float


def load(bed: Bed, document: bytes) -> Loaded:
    """The policies are enforced. A client asks that is connected already."""

    async def apply(channel: ClientChannel) -> Loaded:
        asked_ns = time.monotonic_ns()
        applied = await pb.PolicyServiceStub(channel).apply(pb.ApplyPolicyRequest(documents=document))
        await pb.StatusServiceStub(channel).wait(pb.WaitRequest(position=applied.position, timeout_ns=_WAIT_NS))
        return Loaded(asked_ns, (time.monotonic_ns() - asked_ns) / 1e9)

    return asking.ask(bed.agent, apply)


def _rule(index: int) -> dict[str, object]:
    first = _FIRST_PORT + index // ENDPOINTS * _PORTS
    ports = [{"port": str(port), "protocol": "TCP"} for port in range(first, first + _PORTS)]
    peer = {"matchLabels": {"app": app(index % ENDPOINTS)}}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": f"rule-{index}", "namespace": NAMESPACE},
        "spec": {
            "endpointSelector": {"matchLabels": {"role": _LOADED}},
            "ingress": [{"fromEndpoints": [peer], "toPorts": [{"ports": ports}]}],
        },
    }
