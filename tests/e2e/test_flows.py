"""What hubble has of connections that were allowed and denied."""

import os
from typing import Any

import pytest

from cplane.domain.verdict import DropReason
from cplane.pb.cplane.flow.v1 import extension_pb2
from tests.support import asking
from tests.support.pods import BRIEF_S, PORT
from tests.support.site import Site, policy

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

FORWARDED, DROPPED = 1, 2  # flow.proto
INGRESS = 1
FRONTEND_TCP = policy(
    "backend",
    "backend",
    """
ingress:
- fromEndpoints: [{matchLabels: {app: frontend}}]
  toPorts: [{ports: [{port: "8080", protocol: TCP}]}]
""",
)


def position(flow: Any) -> int:  # Any: protobuf's own classes
    """The log position whose tables judged the packet."""
    origin = extension_pb2.Origin()
    assert flow.extensions.Unpack(origin)
    return int(origin.position)


def to_backend(place: Site, since: int) -> dict[tuple[str, str, int, int], Any]:  # Any: as above
    """What was judged by the backend's ingress policy since that position, by pod, protocol, IP version and verdict."""
    found = {}
    for flow in asking.flows(place.agent):
        ours = flow.destination.pod_name == "backend" and flow.traffic_direction == INGRESS
        if ours and position(flow) >= since and not flow.is_reply.value:
            protocol = flow.l4.WhichOneof("protocol")
            found[flow.source.pod_name, protocol, flow.IP.ipVersion, flow.verdict] = flow
    return found


def test_allowed_and_denied_connections_are_seen_with_verdict_labels_and_position(place: Site) -> None:
    applied = place.apply(FRONTEND_TCP)
    backend = place["backend"]
    for family in (4, 6):
        address = backend.address(family)
        assert place["frontend"].reach(address)
        assert not place["frontend"].reach(address, "icmp", timeout_s=BRIEF_S)
        assert not place["visitor"].reach(address, timeout_s=BRIEF_S)
        assert not place["visitor"].reach(address, "udp", timeout_s=BRIEF_S)
    wanted = {
        (pod, f"{protocol}v{4 if version == 1 else 6}" if protocol == "ICMP" else protocol, version, verdict)
        for pod, protocol, verdict in (
            ("frontend", "TCP", FORWARDED),
            ("frontend", "ICMP", DROPPED),
            ("visitor", "TCP", DROPPED),
            ("visitor", "UDP", DROPPED),
        )
        for version in (1, 2)
    }
    asking.until(lambda: wanted <= to_backend(place, applied).keys(), f"flows {wanted}")
    seen = to_backend(place, applied)
    assert not {key for key in seen if key[3] != (FORWARDED if key[:2] == ("frontend", "TCP") else DROPPED)}
    endpoints = {one["pod"]: one for one in place.agent.ask("endpoint", "list")["endpoints"]}
    for (pod, protocol, _, verdict), flow in seen.items():
        assert flow.source.identity == endpoints[pod]["identity"]
        assert flow.destination.identity == endpoints["backend"]["identity"]
        assert f"k8s:app={pod}" in flow.source.labels
        assert "k8s:app=backend" in flow.destination.labels
        assert (flow.source.namespace, flow.destination.namespace) == ("demo", "demo")
        assert position(flow) == applied
        if protocol in {"TCP", "UDP"}:
            assert getattr(flow.l4, protocol).destination_port == PORT
        if verdict == DROPPED:
            assert flow.drop_reason_desc == DropReason.POLICY_DENIED


def test_the_position_of_a_flow_follows_the_log(place: Site) -> None:
    backend, visitor = place["backend"], place["visitor"]
    assert visitor.reach(backend.ipv4)
    before = asking.status(place.agent).head
    applied = place.apply(FRONTEND_TCP)
    assert applied > before
    assert not visitor.reach(backend.ipv4, timeout_s=BRIEF_S)
    wanted = ("visitor", "TCP", 1)
    asking.until(lambda: (*wanted, DROPPED) in to_backend(place, applied), "the connection that was denied")
    assert position(to_backend(place, before)[(*wanted, FORWARDED)]) == before
    assert position(to_backend(place, applied)[(*wanted, DROPPED)]) == applied


def test_what_the_node_says_on_a_pods_link_is_no_flow(place: Site) -> None:
    """It asks for neighbours and tells who listens there; a policy that lets nobody in has nothing to drop in that."""
    place.apply(policy("quiet", "quiet", "ingress: [{}]"))
    quiet = place.pods.add("quiet", serve=False)

    def settled() -> bool:
        # What a link has to say at its beginning is said on both sides by then.
        addresses = quiet.netns.ip("-6", "address", "show", "dev", "eth0")
        return "scope link" in addresses and "tentative" not in addresses

    try:
        asking.until(settled, "the pod has its own address on the link")
        assert place["frontend"].reach(place["backend"].ipv6)
        asking.until(lambda: ("frontend", "TCP", 2, FORWARDED) in to_backend(place, 0), "a flow that came later")
        assert [flow.Summary for flow in asking.flows(place.agent) if flow.destination.pod_name == "quiet"] == []
    finally:
        assert place.pods.delete("quiet").ok


def test_flows_are_there_again_after_a_kill(place: Site) -> None:
    """Those to come; `test_history.py` is about those that were."""
    place.agent.kill()
    place.agent.start()
    assert place["visitor"].reach(place["backend"].ipv6)
    wanted = ("visitor", "TCP", 2, FORWARDED)
    asking.until(lambda: wanted in to_backend(place, 0), "a flow after the kill")
