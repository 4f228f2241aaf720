"""The agent dies and comes back: enforcement does not notice, and what happened meanwhile is made up for."""

import os
import random
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from datapath.kernel import pin
from datapath.kernel.maps import KernelMap
from datapath.maps import ipcache
from datapath.maps import policy as policy_map
from datapath.maps.ipcache import FAMILY_V4, IpcacheInfo, IpcacheKey
from datapath.maps.policy import PolicyEntry, PolicyKey
from tests.support import asking, pinned
from tests.support.pods import BRIEF_S, Asked
from tests.support.site import Site, policy, site
from tests.support.streams import streams

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

PODS = ("frontend", "backend", "visitor")
FRONTEND_ONLY = policy("backend", "backend", "ingress:\n- fromEndpoints: [{matchLabels: {app: frontend}}]")


def frontend_only(asked: Asked) -> bool:
    """What FRONTEND_ONLY says."""
    return asked.target != "backend" or asked.source == "frontend"


@pytest.fixture
def place(shared: Site) -> Iterator[Site]:
    """The module's site, its agent running, FRONTEND_ONLY in force."""
    if not shared.agent.alive:
        shared.agent.start()
    shared.apply(FRONTEND_ONLY)
    yield shared
    if not shared.agent.alive:
        shared.agent.start()
    shared.lift()


def test_while_the_agent_is_dead_and_after_its_return_verdicts_are_what_they_were(place: Site) -> None:
    questions = place.questions(PODS)
    backend = place["backend"]
    talk, cut = place["frontend"].connect(backend.ipv4), place["visitor"]
    assert not cut.reach(backend.ipv6, timeout_s=BRIEF_S)
    place.agent.kill()
    assert place.wrong(frontend_only, questions) == []
    assert talk.goes_on()
    place.agent.start()
    assert place.unequal() == []
    assert place.wrong(frontend_only, questions) == []
    assert talk.goes_on()


def test_no_datagram_is_lost_and_none_gets_through_across_kills_and_returns(place: Site) -> None:
    backend = place["backend"]
    ends = [(place[name], backend.address(family)) for name in ("frontend", "visitor") for family in (4, 6)]
    with streams(*ends) as running:
        for _ in range(3):
            place.agent.kill()
            place.agent.start()
        allowed4, allowed6, denied4, denied6 = (stream.end() for stream in running)
    for allowed in (allowed4, allowed6):
        assert allowed.sent > 1000
        assert allowed.lost == []
    assert denied4.sent > 1000
    assert denied4.answered == denied6.answered == 0


def test_an_agent_that_is_stopped_leaves_enforcement_behind_and_no_socket(place: Site) -> None:
    assert place.agent.stop() == 0
    assert sorted(path.name for path in place.agent.run_dir.iterdir() if path.is_socket()) == []
    assert place.wrong(frontend_only, place.questions(PODS, ("tcp", "icmp"))) == []


def test_maps_programs_and_links_are_adopted_and_strangers_left_alone(place: Site) -> None:
    root = place.agent.bpf_root
    before = pinned.objects(root)
    beside = root.with_name(f"{root.name}-other")
    strangers = [root / "other" / "kept", root / "links" / "kept", beside / "kept"]
    made = KernelMap.create(ipcache.SPEC)
    try:
        for path in strangers:
            path.parent.mkdir(exist_ok=True)
            pin.pin(made.fd, path)
        place.agent.kill()
        place.agent.start()
        assert all(path.exists() for path in strangers)
        place.agent.stop()
        assert all(path.exists() for path in strangers)
    finally:
        made.close()
        for path in strangers:
            path.unlink(missing_ok=True)
        beside.rmdir()
        (root / "other").rmdir()
    assert pinned.objects(root) == before


def test_rows_that_are_wrong_in_the_kernel_are_right_after_the_return(place: Site) -> None:
    """Somebody changed the tables while nobody looked: one row is missing, one is not ours, one says the opposite."""
    place.agent.kill()
    root = place.agent.bpf_root
    wanted = pinned.tables(root)
    with pinned.opened(root, policy_map.SPEC) as held:
        rows = sorted(held.dump())
        held.delete(rows[0])
        held.update(PolicyKey(4711, 0, 0, 0, 0, 0).pack(), PolicyEntry(False, 1, 0).pack())
        changed = PolicyEntry.unpack(held.dump()[rows[1]])
        held.update(rows[1], changed._replace(deny=not changed.deny).pack())
    with pinned.opened(root, ipcache.SPEC) as held:
        held.update(
            IpcacheKey(FAMILY_V4, bytes((203, 0, 113, 0)).ljust(16, b"\0"), 24).pack(), IpcacheInfo(4711).pack()
        )
    place.agent.start()
    assert pinned.tables(root) == wanted
    assert place.wrong(frontend_only, place.questions(PODS, ("tcp",))) == []


def test_a_pod_that_is_deleted_while_the_agent_is_away_is_gone_when_it_is_back(place: Site) -> None:
    place.pods.add("late", serve=False)
    place.agent.kill()
    host_interface = place.pods["late"].host_interface
    reply = place.pods.client.delete(place.pods.container("late"), place.pods["late"].netns.path)
    assert reply.ok, reply
    assert host_interface in place.node.interfaces()
    place.agent.start()
    assert host_interface not in place.node.interfaces()
    assert place.pods.container("late") not in asking.endpoints(place.agent)
    assert place.unequal() == []
    place.pods.drop("late")


def test_pods_that_vanish_while_the_agent_is_away_are_swept_when_it_is_back(place: Site) -> None:
    """As after a reboot of the node: nobody says CNI DEL."""
    place.pods.add("lost", serve=False)
    before = set(pinned.objects(place.agent.bpf_root))
    place.agent.kill()
    gone = place.pods["lost"].host_interface
    place.pods.drop("lost")
    asking.until(lambda: gone not in place.node.interfaces(), "the kernel takes the link of a dead namespace away")
    place.agent.start()
    assert place.pods.container("lost") not in asking.endpoints(place.agent)
    assert place.unequal() == []

    def swept() -> set[str]:
        gone = before - set(pinned.objects(place.agent.bpf_root))
        return {name.partition("_")[2] for name in gone}

    asking.until(lambda: swept() == {"from_container", "to_container"}, "the pins of the links are gone")


def test_an_agent_that_is_killed_while_it_starts_starts_the_next_time(place: Site) -> None:
    chance = random.Random(7)
    place.agent.kill()
    for _ in range(8):
        place.agent.start(wait=False)
        assert place.agent.process is not None
        with pytest.raises(subprocess.TimeoutExpired):
            place.agent.process.wait(chance.uniform(0.05, 1.0))
        place.agent.kill()
    place.agent.start()
    assert place.unequal() == []
    assert place.wrong(frontend_only, place.questions(PODS, ("tcp",))) == []


def test_a_log_that_lost_its_end_is_refused_and_the_kernel_goes_on(programs: Path, tmp_path: Path) -> None:
    """A shorter log is sound in itself; following it would lift the policy that its end had put in force."""
    with site(tmp_path, programs, ("frontend", "backend")) as place:
        place.apply(policy("backend", "backend", "ingress: [{}]"))
        place.agent.stop()
        enforced = pinned.position(place.agent.bpf_root)
        before = pinned.tables(place.agent.bpf_root)
        with closing(sqlite3.connect(place.agent.state / "log.db")) as log, log:
            log.execute("DELETE FROM events WHERE position = ?", (enforced,))
        status, words = place.agent.fails_to_start()
        assert status == 1
        assert f"ends at position {enforced - 1}, but the kernel enforces position {enforced}" in words
        assert pinned.tables(place.agent.bpf_root) == before
        assert not place["frontend"].reach(place["backend"].ipv4, timeout_s=BRIEF_S)


def test_an_empty_log_beside_a_kernel_that_enforces_is_refused_as_well(programs: Path, tmp_path: Path) -> None:
    with site(tmp_path, programs, ("frontend", "backend")) as place:
        place.agent.stop()
        for file in place.agent.state.glob("log.db*"):
            file.unlink()
        status, words = place.agent.fails_to_start()
        assert status == 1
        assert "ends at position 0" in words
        assert place["frontend"].reach(place["backend"].ipv6)
