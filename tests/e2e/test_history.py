"""Flows outlive the agent that saw them: the same lines before and after, uuids included, and gaps that are told."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support import asking
from tests.support.pods import BRIEF_S
from tests.support.site import Site, policy, site

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

TO_BACKEND = ("--to-pod", "demo/backend")  # not what a node and its neighbours say to each other unasked
FRONTEND_ONLY = policy("backend", "backend", "ingress:\n- fromEndpoints: [{matchLabels: {app: frontend}}]")


def talk(place: Site) -> None:
    """Connections that were allowed and denied, and all that is said about them has been seen."""
    for family in (4, 6):
        address = place["backend"].address(family)
        assert place["frontend"].reach(address)
        assert not place["visitor"].reach(address, timeout_s=BRIEF_S)
    seen = [-1]

    def quiet() -> bool:
        seen.append(len(lines(place, "--all")))
        return seen[-1] == seen[-2]

    asking.until(quiet, "no more flows come")


def lines(place: Site, *arguments: str) -> list[str]:
    return place.agent.hubble("observe", *TO_BACKEND, *arguments).stdout.splitlines()


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_after_a_restart_observe_prints_the_same_lines(place: Site, end: str) -> None:
    place.apply(FRONTEND_ONLY)
    talk(place)
    asked: list[tuple[str, ...]] = [("--last", "20"), ("--last", "20", "-o", "json"), ("--first", "5", "-o", "dict")]
    before = [lines(place, *one) for one in asked]
    assert len(before[0]) >= 8
    getattr(place.agent, end)()
    place.agent.start()
    assert [lines(place, *one) for one in asked] == before
    uuid = json.loads(before[1][0])["flow"]["uuid"]
    found = [json.loads(line) for line in lines(place, "--uuid", uuid, "-o", "json")]
    assert [one["flow"]["uuid"] for one in found if "flow" in one] == [uuid]


def test_the_time_without_an_agent_is_told_between_the_flows_before_and_after(place: Site) -> None:
    place.apply(FRONTEND_ONLY)
    talk(place)
    place.agent.kill()
    place.agent.start()
    talk(place)
    told: list[dict[str, Any]] = [json.loads(line) for line in lines(place, "--all", "-o", "json")]
    at = max(number for number, one in enumerate(told) if "lost_events" in one)
    assert told[at]["lost_events"].get("source", "UNKNOWN_LOST_EVENT_SOURCE").startswith("UNKNOWN")
    assert {"first", "last"} <= told[at]["lost_events"].keys()
    times = [one["time"] for one in told]
    assert times[at - 1] < times[at] <= times[at + 1]


def test_a_ring_that_is_damaged_while_the_agent_is_away_is_begun_anew_and_the_agent_serves(
    programs: Path, tmp_path: Path
) -> None:
    with site(tmp_path, programs, ("frontend", "backend", "visitor")) as place:
        place.apply(FRONTEND_ONLY)
        talk(place)
        place.agent.kill()
        ring = place.agent.state / "flows.ring"
        os.truncate(ring, ring.stat().st_size // 2)
        offset = len(place.agent.told())
        place.agent.start()
        said = [json.loads(line) for line in place.agent.told(offset).splitlines()]
        (why,) = [line for line in said if line["event"] == "flow ring begins anew"]
        assert why["path"] == str(ring)
        assert "bytes instead of" in why["error"]
        assert lines(place, "--all") == []
        talk(place)
        assert len(lines(place, "--all")) >= 8
