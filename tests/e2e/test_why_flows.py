"""A packet that the kernel dropped leads to the event that caused it, by the uuid of its flow."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

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
NAME = "policy CiliumNetworkPolicy/demo/backend"
ONLY_FRONTEND = policy("backend", "backend", "ingress: [{fromEndpoints: [{matchLabels: {app: frontend}}]}]")


def uuid_of(place: Site, source: str, verdict: int) -> str:
    """The first TCP packet from the pod to the backend that had the verdict; waits for it."""

    def found() -> list[Any]:  # Any: protobuf's own classes
        return [
            flow
            for flow in asking.flows(place.agent)
            if (flow.source.pod_name, flow.destination.pod_name) == (source, "backend")
            and flow.verdict == verdict
            and flow.traffic_direction == INGRESS
            and flow.l4.HasField("TCP")
            and not flow.is_reply.value
        ]

    asking.until(lambda: bool(found()), f"a flow from {source}")
    return str(found()[-1].uuid)


def test_a_dropped_packet_leads_to_the_policy_that_dropped_it(place: Site, tmp_path: Path) -> None:
    place.apply(policy("aside", "visitor", "egress: [{toEntities: [all]}]"))
    applied = place.apply(ONLY_FRONTEND)
    assert not place["visitor"].reach(place["backend"].ipv4, timeout_s=BRIEF_S)
    uuid = uuid_of(place, "visitor", DROPPED)
    later = place.apply(ONLY_FRONTEND.replace("frontend", "visitor"))
    found = place.agent.ask("why", uuid)
    assert (found["verdict"], found["direction"], found["position"]) == ("DENIED", "ingress", applied)
    assert (found["flow"]["verdict"], found["flow"]["reason"]) == ("DROPPED", "POLICY_DENIED")
    assert (found["source"]["name"], found["destination"]["name"]) == ("demo/visitor", "demo/backend")
    assert found["traffic"] == f"{PORT}/TCP"
    assert (found["turned"]["object"], found["turned"]["event"]["position"]) == (NAME, applied)
    assert found["turned"]["event"]["actor"] == "uid:0(root)"
    file = tmp_path / "flows.json"
    file.write_text(place.agent.hubble("observe", "--last", "1000", "-o", "jsonpb").stdout)
    for name in ("log.db", "log.db-wal"):
        shutil.copy(place.agent.state / name, tmp_path / name)
    copied = place.agent.ask("why", uuid, "--flow", str(file), "--log", str(tmp_path / "log.db"))
    assert (found["flow"]["note"], found["flow"]["position"]) == ("", applied)
    assert copied == found
    now = place.agent.ask("why", "--from", "demo/visitor", "--to", "demo/backend", "--port", f"{PORT}/TCP")
    assert (now["verdict"], now["turned"]["event"]["position"]) == ("ALLOWED", later)


def test_a_packet_that_passed_is_explained_too(place: Site) -> None:
    applied = place.apply(ONLY_FRONTEND)
    assert place["frontend"].reach(place["backend"].ipv4)
    lines = place.agent.cplane("why", uuid_of(place, "frontend", FORWARDED)).stdout.splitlines()
    assert lines[0].startswith(f"ALLOWED: demo/frontend to demo/backend, {PORT}/TCP (position {applied}, ")
    assert any(line.strip().startswith(f"{NAME}, spec.ingress[0], matches ") for line in lines)
