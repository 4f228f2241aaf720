"""`cplane policy preview` and `suggest`, of a live agent without traffic and of its copied log with saved flows."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import asking
from tests.support.agent import Agent
from tests.support.laptop import add_pods, copy_of
from tests.support.site import policy

pytestmark = pytest.mark.slow

OPEN = policy("web", "web", "ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]")
SHUT = policy("web", "web", "ingress: [{fromEndpoints: [{matchLabels: {app: admin}}]}]")
WIDER = policy("wider", "web", "ingress: [{fromEndpoints: [{matchLabels: {app: visitor}}]}]")
BREAKS = 3


@pytest.fixture(scope="module")
def bare() -> list[int]:
    """The position at which there were pods and no policy."""
    return []


@pytest.fixture(scope="module")
def agent(laptop: Agent, bare: list[int]) -> Agent:
    add_pods(laptop, "web", "client", "visitor")
    bare.append(laptop.ask("status")["head"])
    asking.apply(laptop, OPEN)
    return laptop


@pytest.fixture
def change(tmp_path: Path) -> Path:
    return tmp_path / "change.yaml"


@pytest.fixture
def flows(agent: Agent, tmp_path: Path) -> Path:
    """Three connections of the client, as they were saved, and one of a pod that is gone."""
    ends = {one["pod"].rpartition("/")[2]: one for one in agent.ask("endpoint", "list")["endpoints"]}
    lines = [line(ends, "client", 80, second) for second in (1, 2, 3)]
    gone = {"ID": 999, "identity": 999, "namespace": "demo", "pod_name": "gone"}
    lines.append(line(ends, "client", 80, 4, destination=gone))
    path = tmp_path / "flows.jsonl"
    path.write_text("".join(f"{one}\n" for one in lines))
    return path


def line(ends: dict[str, Any], source: str, port: int, second: int, **changed: Any) -> str:
    one, other = ends[source], ends["web"]
    flow = {
        "time": f"2026-01-31T12:00:0{second}Z",
        "verdict": "FORWARDED",
        "traffic_direction": "INGRESS",
        "IP": {"source": one["ipv4"], "destination": other["ipv4"]},
        "l4": {"TCP": {"source_port": 40000, "destination_port": port}},
        "source": {"ID": one["id"], "identity": one["identity"], "namespace": "demo", "pod_name": source},
        "destination": {"ID": other["id"], "identity": other["identity"], "namespace": "demo", "pod_name": "web"},
        "event_type": {"type": 5},
    }
    return json.dumps({"flow": flow | changed})


def test_a_live_agent_and_a_copy_of_its_log_say_the_same(agent: Agent, change: Path, tmp_path: Path) -> None:
    change.write_text(SHUT)
    log = copy_of(agent.state / "log.db", tmp_path)
    told = ("policy", "preview", "-f", str(change), "-o", "json")
    live = agent.cplane(*told, check=False)
    copied = agent.cplane(*told, "--log", str(log), check=False)
    assert live.returncode == copied.returncode == BREAKS
    found, other = json.loads(live.stdout), json.loads(copied.stdout)
    assert found["reach"] == other["reach"]
    assert [(one["source"], one["destination"], one["ports"], one["after"]) for one in found["reach"]] == [
        ("demo/client", "demo/web", "any", "DENIED")
    ]
    assert other["window"] is None


def test_what_opens_more_exits_with_0(agent: Agent, change: Path) -> None:
    change.write_text(WIDER)
    done = agent.cplane("policy", "preview", "-f", str(change))
    assert "demo/visitor" in done.stdout
    assert "DENIED → ALLOWED" in done.stdout
    assert "wider" not in json.dumps(agent.ask("policy", "list")), "nothing was changed"


def test_saved_flows_are_judged_and_their_window_is_told(
    agent: Agent, change: Path, flows: Path, tmp_path: Path
) -> None:
    change.write_text(SHUT)
    log = copy_of(agent.state / "log.db", tmp_path)
    given = ("policy", "preview", "-f", str(change), "--log", str(log), "--flows", str(flows))
    found = json.loads(agent.cplane(*given, "-o", "json", check=False).stdout)
    assert [(one["source"], one["port"], one["after"], one["count"]) for one in found["seen"]] == [
        ("demo/client", "80/TCP", "DENIED", 3)
    ]
    assert (found["denied"], found["gone"], found["window"]["flows"]) == (3, 1, 4)
    assert set(found["new"]) == {"demo/web", "demo/client", "demo/visitor"}, "the log is younger than the flows"
    shown = agent.cplane(*given, "--since", "2026-01-31T11:00:00Z", check=False)
    assert shown.returncode == BREAKS
    for text in ("4 flows from", "of the time from 2026-01-31T11:00:00", "3 would be denied", "pods that are new"):
        assert text in shown.stdout, shown.stdout


def test_what_is_suggested_from_saved_flows_is_valid_and_denies_none(
    agent: Agent, flows: Path, change: Path, tmp_path: Path
) -> None:
    log = copy_of(agent.state / "log.db", tmp_path)
    given = ("--log", str(log), "--flows", str(flows))
    proposed = agent.cplane("policy", "suggest", "-n", "demo", *given).stdout
    assert "seen-web" in proposed
    assert "# no connection was seen of: demo/client, demo/visitor" in proposed
    change.write_text(proposed)
    assert agent.cplane("policy", "validate", "-f", str(change)).returncode == 0
    review = json.loads(agent.cplane("policy", "preview", "-f", str(change), *given, "-o", "json", check=False).stdout)
    assert review["denied"] == 0


def test_a_change_to_another_moment_is_tried_on_that_one(agent: Agent, bare: list[int], change: Path) -> None:
    change.write_text(SHUT)
    told = agent.cplane("policy", "preview", "-f", str(change), "--at", str(bare[0]), "-o", "json", check=False)
    found = json.loads(told.stdout)
    assert (told.returncode, found["position"]) == (BREAKS, bare[0])
    assert {one["source"] for one in found["reach"]} >= {"demo/client", "demo/visitor"}
