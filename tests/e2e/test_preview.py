"""A change is tried on what pods really sent, before it is made; what is proposed from that denies none of it."""

import json
import os
from pathlib import Path

import pytest

from tests.support import asking
from tests.support.pods import BRIEF_S
from tests.support.site import Site, policy

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

FRONTEND = policy(
    "backend",
    "backend",
    """
ingress:
- fromEndpoints: [{matchLabels: {app: frontend}}]
  toPorts: [{ports: [{port: "8080", protocol: TCP}]}]
""",
)
BREAKS = 3


def talk(place: Site) -> None:
    for pod in ("frontend", "visitor"):
        assert place[pod].reach(place["backend"].ipv4)

    def seen() -> bool:
        found = {
            one.source.pod_name
            for one in asking.flows(place.agent)
            if one.destination.pod_name == "backend" and not one.is_reply.value
        }
        return {"frontend", "visitor"} <= found

    asking.until(seen, "both connections are flows")


def test_what_would_break_is_told_before_and_breaks_then(place: Site, tmp_path: Path) -> None:
    talk(place)
    change = tmp_path / "change.yaml"
    change.write_text(FRONTEND)
    before = place.agent.ask("status")["head"]
    tried = place.agent.cplane("policy", "preview", "-f", str(change), "-o", "json", check=False)
    assert tried.returncode == BREAKS, tried.stderr
    found = json.loads(tried.stdout)
    assert {(one["source"], one["port"], one["after"]) for one in found["seen"]} == {
        ("demo/visitor", "8080/TCP", "DENIED")
    }
    assert found["denied"] >= 1
    assert found["window"]["flows"] > 0
    assert place.agent.ask("status")["head"] == before, "nothing was changed"
    assert place["visitor"].reach(place["backend"].ipv4)
    shown = place.agent.cplane("policy", "preview", "-f", str(change), check=False)
    assert "demo/visitor" in shown.stdout
    assert "ALLOWED → DENIED" in shown.stdout
    place.apply(FRONTEND)
    assert not place["visitor"].reach(place["backend"].ipv4, timeout_s=BRIEF_S)
    assert place["frontend"].reach(place["backend"].ipv4)
    undone = place.agent.cplane("policy", "preview", "--delete", "CiliumNetworkPolicy/demo/backend", check=False)
    assert undone.returncode == 0, undone.stdout


def test_what_is_proposed_denies_nothing_that_was_seen(place: Site, tmp_path: Path) -> None:
    talk(place)
    proposed = tmp_path / "proposed.yaml"
    proposed.write_text(place.agent.cplane("policy", "suggest", "-n", "demo").stdout)
    assert "seen-backend" in proposed.read_text()
    assert place.agent.cplane("policy", "validate", "-f", str(proposed)).returncode == 0
    review = place.agent.cplane("policy", "preview", "-f", str(proposed), "-o", "json", check=False)
    found = json.loads(review.stdout)
    assert found["denied"] == 0, found["seen"]
    place.apply(proposed.read_text())
    for pod in ("frontend", "visitor"):
        assert place[pod].reach(place["backend"].ipv4)
    assert not place["frontend"].reach(place["visitor"].ipv4, timeout_s=BRIEF_S)


def test_a_change_that_is_not_valid_is_refused_as_an_apply_would(place: Site, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("kind: CiliumNetworkPolicy\nnonsense: 1\n")
    done = place.agent.cplane("policy", "preview", "-f", str(bad), check=False)
    assert done.returncode == 1
    assert "bad.yaml, document 1, nonsense: unknown field" in done.stderr
    assert place.agent.cplane("policy", "preview", check=False).returncode == 2
    missing = place.agent.cplane("policy", "preview", "--delete", "CiliumNetworkPolicy/demo/nobody", check=False)
    assert (missing.returncode, "no such policy" in missing.stderr) == (1, True)
