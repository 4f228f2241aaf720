"""A node from its first start to its last pod, on the kernel's datapath."""

import os
from pathlib import Path

import pytest

from tests.support import asking, pinned
from tests.support.pods import Asked
from tests.support.site import WORLD4, Site, policy, site

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

PODS = ("frontend", "backend", "visitor")
FRONTEND_ONLY = policy("backend", "backend", "ingress:\n- fromEndpoints: [{matchLabels: {app: frontend}}]")
WORLD = policy("world", "frontend", f"egress:\n- toCIDR: [{WORLD4}/32]\n- toEndpoints: [{{}}]")


def test_a_node_lives_from_its_first_start_to_its_last_pod_and_leaves_nothing(programs: Path, tmp_path: Path) -> None:
    with site(tmp_path, programs) as place:
        place.serve()
        empty = pinned.tables(place.agent.bpf_root)
        assert place.left() == []
        for name in PODS:
            place.pods.add(name)
        questions = place.questions((*PODS, "world"), ("tcp", "icmp"))
        assert place.wrong(lambda _: True, questions) == []

        file = tmp_path / "policies.yaml"
        file.write_text(f"{FRONTEND_ONLY}---\n{WORLD}")
        applied = place.agent.cplane("policy", "apply", "-f", str(file), "--wait").stdout.splitlines()
        assert applied[:2] == ["CiliumNetworkPolicy demo/backend created", "CiliumNetworkPolicy demo/world created"]

        def rule(asked: Asked) -> bool:
            enters = asked.target != "backend" or asked.source == "frontend"
            leaves = asked.source != "frontend" or asked.target != "world" or asked.family == 4
            return enters and leaves

        assert place.wrong(rule, questions) == []
        status, position = asking.status(place.agent), int(applied[2].removeprefix("position "))
        assert (status.head, status.applied, status.in_sync) == (position, position, True)
        assert pinned.position(place.agent.bpf_root) == position

        place.agent.cplane("policy", "delete", "-f", "-", "--wait", given=WORLD)
        assert place.wrong(lambda asked: asked.target != "backend" or asked.source == "frontend", questions) == []

        for name in PODS:
            assert place.pods.delete(name).ok
        place.lift()
        assert place.left() == []
        assert pinned.tables(place.agent.bpf_root) == empty
        assert place.agent.stop() == 0
        history = pinned.envelopes(place.agent.state / "log.db")
        assert pinned.recomputed(history) == empty
        place.agent.start()
        assert asking.status(place.agent).head == len(history)


def test_the_kernels_tables_are_what_is_wanted_and_what_the_log_leads_to(place: Site) -> None:
    place.apply(FRONTEND_ONLY, WORLD)
    for table in (("policy", "list"), ("ipcache", "list"), ("lxc", "list"), ("devices", "list")):
        told = place.agent.ask("bpf", *table)
        assert told["rows"]
        assert {row["difference"] for row in told["rows"]} == {"none"}
        assert told["position"] == told["applied"]
    history = pinned.envelopes(place.agent.state / "log.db")
    assert pinned.tables(place.agent.bpf_root) == pinned.recomputed(history)


def test_a_row_that_differs_is_shown_from_both_sides(place: Site) -> None:
    """Somebody took an address away from the kernel; `cplane bpf` says so until it is put right."""
    place.apply(FRONTEND_ONLY)
    backend = place["backend"]
    spec = pinned.SPECS["lxc"]
    with pinned.opened(place.agent.bpf_root, spec) as held:
        key, row = next((key, row) for key, row in held.dump().items() if row[:4] and backend_row(key, backend.ipv4))
        held.delete(key)
    try:
        shown = place.agent.cplane("bpf", "lxc", "list")
        assert [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("-")] == [backend.ipv4]
        assert "1 of " in shown.stderr
        assert len(place.unequal()) == 1
    finally:
        with pinned.opened(place.agent.bpf_root, spec) as held:
            held.update(key, row)
    assert place.unequal() == []


def backend_row(key: bytes, ipv4: str) -> bool:
    """Whether the key is of that address."""
    return key[:4] == bytes(map(int, ipv4.split(".")))


def test_an_endpoint_is_told_as_it_is(place: Site) -> None:
    frontend = place["frontend"]
    (told,) = [one for one in place.agent.ask("endpoint", "list")["endpoints"] if one["pod"] == "frontend"]
    assert (told["ipv4"], told["ipv6"]) == (frontend.ipv4, frontend.ipv6)
    assert told["netns"] == frontend.netns.path
    assert told["host_interface"] == frontend.host_interface
    assert told["host_interface"] in place.node.interfaces()
    assert told["mac"] in frontend.netns.ip("link", "show", "eth0")
    assert place.agent.ask("endpoint", "get", str(told["id"])) == told
    rows = place.agent.ask("bpf", "policy", "get", str(told["id"]))["rows"]
    assert {row["key"]["policy"] for row in rows} == {str(told["identity"])}
