"""What the programs tell of their steps: real packets, from the kernel to the command line."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datapath.kernel.compile import compiled
from tests.support import asking
from tests.support.pods import BRIEF_S, PORT, Pod
from tests.support.site import Site, policy, site

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

LINE = re.compile(
    r"\w{3} [ \d]\d \d\d:\d\d:\d\d\.\d{3}: (demo/\w+ \(ID: \d+\)) (DBG_\w+) MARK: 0x[0-9a-f]+ CPU: (\d\d) \((.*)\)"
)
NOBODY = policy("backend", "backend", "ingress: [{}]")


@pytest.fixture(scope="module")
def shared(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose agent finds programs of both kinds compiled."""
    compiled(programs, {"debug": 1})
    with site(tmp_path_factory.mktemp("site"), programs, ("frontend", "backend")) as made:
        yield made


def lines(place: Site, *arguments: str) -> list[tuple[str, str, str, str]]:
    """From, type, CPU and message of each line that `hubble observe debug-events` prints."""
    told = place.agent.hubble("observe", "debug-events", *(arguments or ("--all",))).stdout.splitlines()
    found = [LINE.fullmatch(line) for line in told]
    assert all(found), told
    return [one.groups() for one in found if one is not None]  # type: ignore[misc]


def events(place: Site, *arguments: str) -> list[dict[str, Any]]:  # Any: JSON
    told = place.agent.hubble("observe", "debug-events", "-o", "json", *(arguments or ("--all",))).stdout.splitlines()
    return [json.loads(line) for line in told]


def switch(place: Site, word: str) -> str:
    return str(place.agent.ask("config", f"Debug={word}")["options"]["Debug"])


def source(pod: Pod, place: Site) -> str:
    number = next(one["id"] for one in place.agent.ask("endpoint", "list")["endpoints"] if one["pod"] == pod.name)
    return f"demo/{pod.name} (ID: {number})"


def test_steps_are_told_while_debug_is_on_and_connections_do_not_notice(place: Site) -> None:
    frontend, backend = place["frontend"], place["backend"]
    assert frontend.reach(backend.ipv4)
    assert events(place) == [], "programs say nothing unless they are asked to"
    talk = frontend.connect(backend.ipv4)
    assert talk.goes_on()
    assert switch(place, "Enabled") == "Enabled"
    assert talk.goes_on(), "the connection goes on under other programs"
    assert frontend.reach(backend.ipv4)
    asking.until(lambda: len(lines(place)) > 20, "steps of that connection")
    assert switch(place, "Disabled") == "Disabled"
    assert talk.goes_on()
    told = lines(place)
    ours, theirs = source(frontend, place), source(backend, place)
    asked = rf"src={frontend.ipv4}:\d+ dst={backend.ipv4}:{PORT}"
    answered = rf"src={backend.ipv4}:{PORT} dst={frontend.ipv4}:\d+"
    wanted = {
        (ours, "DBG_CT_LOOKUP4_1"): rf"Conntrack lookup 1/2: {asked}",
        (ours, "DBG_LOCAL_DELIVERY"): r"Attempting local delivery for container id \d+ from seclabel \d+",
        (ours, "DBG_CT_CREATED4"): r"Conntrack create: proxy-port=0 revnat=0 src-identity=\d+ lb=0.0.0.0",
        (theirs, "DBG_CT_VERDICT"): r"CT verdict: New, revnat=0",
        (theirs, "DBG_L4_CREATE"): rf"Matched L4 policy; creating conntrack src=\d+ dst=\d+ dport={PORT} proto=6",
        (theirs, "DBG_CT_LOOKUP4_1"): rf"Conntrack lookup 1/2: {answered}",
    }
    for (who, kind), words in wanted.items():
        assert [one for one in told if one[:2] == (who, kind) and re.fullmatch(words, one[3])], (who, kind, words)
    assert {int(cpu) for _, _, cpu, _ in told} <= set(range(os.cpu_count() or 1))
    before = len(told)
    assert frontend.reach(backend.ipv4)
    place.agent.cplane("status")
    assert len(lines(place)) == before, "nothing is told any more"


def test_a_refusal_is_told_as_messages_with_all_arguments(place: Site) -> None:
    switch(place, "Enabled")
    place.apply(NOBODY)
    frontend, backend = place["frontend"], place["backend"]
    assert not frontend.reach(backend.ipv6, timeout_s=BRIEF_S)
    identity = {one["pod"]: one["identity"] for one in place.agent.ask("endpoint", "list")["endpoints"]}
    words = f"Policy evaluation would deny packet from {identity['frontend']} to {identity['backend']}"
    asking.until(lambda: words in {one["debug_event"]["message"] for one in events(place)}, words)
    denied = next(one for one in events(place) if one["debug_event"]["message"] == words)
    event = denied["debug_event"]
    assert (event["type"], event["arg1"], event["arg2"], event["arg3"]) == (
        *("DBG_POLICY_DENIED", identity["frontend"], identity["backend"], 0),
    )
    assert (event["source"]["pod_name"], event["source"]["namespace"]) == ("backend", "demo")
    assert event["source"]["identity"] == identity["backend"]
    assert isinstance(event["cpu"], int)
    assert event["hash"]
    assert denied["node_name"] == "default/node"
    last = events(place, "--last", "2")
    assert len(last) == 2
    assert last[0]["time"] <= last[1]["time"]
    switch(place, "Disabled")


def test_an_agent_that_is_started_for_it_tells_steps_and_another_start_ends_it(place: Site) -> None:
    agent, options = place.agent, place.agent.options
    agent.stop()
    agent.options = (*options, "--debug")
    agent.start()
    assert agent.ask("config")["options"]["Debug"] == "Enabled"
    assert place["frontend"].reach(place["backend"].ipv4)
    asking.until(lambda: bool(events(place)), "steps")
    agent.kill()
    agent.options = options
    agent.start()
    assert agent.ask("config")["options"]["Debug"] == "Disabled"
    assert place["frontend"].reach(place["backend"].ipv4)
    assert events(place) == []
