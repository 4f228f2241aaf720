"""Flows that have left the ring, or were taken away: an agent's archive, a copied ring and a copied archive."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import numpy as np
import pytest

from cplane.hubble.archive.closing import Closing
from cplane.hubble.archive.folder import open_archive
from cplane.hubble.kept import boot_id, open_store
from cplane.hubble.parser.getters import EndpointInfo
from cplane.hubble.parser.threefour import Parser
from datapath.notify.records import RecordType
from tests.support import asking
from tests.support.agent import Agent
from tests.support.flows import World, records
from tests.support.laptop import add_pods, copy_of
from tests.support.site import PREFIX, policy

pytestmark = pytest.mark.slow

CAPACITY = 1024
POLICY_DENIED = -133
BREAKS = 3
ONLY_CLIENT = policy("web", "web", "ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]")
NOBODY = policy("web", "web", "ingress: [{fromEndpoints: [{matchLabels: {app: admin}}]}]")


class Past(NamedTuple):
    """An agent, the uuids of flows that were seen before it started, and the position that was in force then."""

    agent: Agent
    archive: Path
    archived: str  # a visitor was denied; it has left the ring
    ringed: str  # the last of them
    position: int


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    folder = tmp_path_factory.mktemp("recorded")
    archive = folder / "archive"
    options = ("--hubble-ring-records", str(CAPACITY), "--hubble-archive-path", str(archive))
    agent = Agent(folder, f"{PREFIX}{os.getpid():x}-recorded", datapath="memory", options=options)
    try:
        agent.start()
        add_pods(agent, "web", "client", "visitor")
        position = asking.apply(agent, ONLY_CLIENT)
        ends = {one["pod"].rpartition("/")[2]: one for one in agent.ask("endpoint", "list")["endpoints"]}
        agent.stop()
        uuids = anyio.run(_record, agent, archive, ends, position)
        agent.start()
        yield Past(agent, archive, *uuids, position)
    finally:
        agent.remove()


async def _record(agent: Agent, archive: Path, ends: dict[str, Any], position: int) -> tuple[str, str]:
    """More flows than the ring holds: the visitor is denied four times, then the client passes as often as fits.

    Gives the uuids of the first and the last.
    """
    name = str(agent.state / "flows.ring")
    store = open_store(name, cluster="default", node="node", capacity=CAPACITY, new_id="7" * 32, boot=boot_id())
    opened = open_archive(str(archive), max_mb=10, max_hours=0)
    closing = Closing(store, opened, time.time_ns)
    world = World(
        pods={one["id"]: EndpointInfo(one["id"], "demo", name, "default") for name, one in ends.items()},
        addresses={one["ipv4"]: one["id"] for one in ends.values()},
    )
    parser = Parser(store, world)
    for source, verdict, count in [("visitor", POLICY_DENIED, 4), *[("client", 0, 256)] * (CAPACITY // 256)]:
        parser.ingest(_verdicts(ends[source], ends["web"], verdict, count, position), time.time_ns())
        while await closing.close_one(all_rows=False):
            pass
    first, last = store.ids.text(0), store.ids.text(store.ring.written - 1)
    assert (store.ring.oldest, len(opened.segments)) == (4, 4)
    assert store.keeper is not None
    store.keeper.close()
    opened.close()
    return first, last


def _verdicts(source: Any, destination: Any, verdict: int, count: int, position: int) -> np.ndarray:
    row = {
        "type": RecordType.POLICY_VERDICT,
        "src": source["ipv4"],
        "dst": destination["ipv4"],
        "src_identity": source["identity"],
        "dst_identity": destination["identity"],
        "src_lxc": 0,
        "dst_lxc": destination["id"],
        "verdict": verdict,
        "position": position,
    }
    return records(*({**row, "time_ns": n} for n in range(count)))


@pytest.fixture
def change(past: Past, tmp_path: Path) -> Iterator[Path]:
    """A change that denies the client, and rules that have changed since the flows were seen."""
    path = tmp_path / "change.yaml"
    path.write_text(NOBODY)
    yield path
    asking.apply(past.agent, ONLY_CLIENT)


def test_a_flow_that_left_the_ring_is_explained_from_the_archive(past: Past) -> None:
    asking.apply(past.agent, NOBODY.replace("admin", "visitor"))
    for uuid, source, verdict in ((past.archived, "visitor", "DENIED"), (past.ringed, "client", "ALLOWED")):
        found = past.agent.ask("why", uuid)
        assert (found["source"]["name"], found["verdict"], found["position"]) == (
            f"demo/{source}",
            verdict,
            past.position,
        )
        assert found["flow"]["note"] == ""
    other = past.agent.cplane("why", "5f1c62a4-6a1e-4c1e-9e2b-8c0d6f6b7a01", check=False)
    assert (other.returncode, "in its ring or its archive" in other.stderr) == (1, True)
    asking.apply(past.agent, ONLY_CLIENT)


def test_copies_of_ring_and_archive_say_of_a_flow_what_the_agent_says(past: Past, tmp_path: Path) -> None:
    log = copy_of(past.agent.state / "log.db", tmp_path)
    for name in ("flows.ring", "flows.ring.tables"):
        shutil.copy(past.agent.state / name, tmp_path / name)
    archive = shutil.copytree(past.archive, tmp_path / "archive")
    for uuid, flows in (
        (past.ringed, (tmp_path / "flows.ring",)),
        (past.ringed, (tmp_path,)),
        (past.archived, (archive,)),
        (past.archived, (tmp_path / "flows.ring", archive)),
        (past.archived, (min(archive.glob("*.parquet")),)),
    ):
        given = [word for path in flows for word in ("--flows", str(path))]
        assert past.agent.ask("why", uuid, "--log", str(log), *given) == past.agent.ask("why", uuid)
    alone = past.agent.cplane("why", past.archived, "--log", str(log), "--flow", str(tmp_path), check=False)
    assert (alone.returncode, alone.stderr) == (1, f"cplane: flow: there is no flow {past.archived}\n")
    many = past.agent.cplane("why", "--log", str(log), "--flow", str(tmp_path), check=False)
    assert (many.returncode, "name the uuid" in many.stderr) == (2, True)


def test_a_preview_counts_flows_of_ring_and_archive_live_and_copied(past: Past, change: Path, tmp_path: Path) -> None:
    log = copy_of(past.agent.state / "log.db", tmp_path)
    for name in ("flows.ring", "flows.ring.tables"):
        shutil.copy(past.agent.state / name, tmp_path / name)
    preview = ("policy", "preview", "-f", str(change), "-o", "json")
    given = ("--log", str(log), "--flows", str(tmp_path), "--flows", str(past.archive))
    answers = [past.agent.cplane(*preview, *where, check=False) for where in ((), given)]
    assert [one.returncode for one in answers] == [BREAKS, BREAKS], answers[1].stderr
    live, copied = (json.loads(one.stdout) for one in answers)
    assert live["window"].pop("asked_ns") == copied["window"].pop("asked_ns") == 0
    assert live == copied
    assert live["window"]["flows"] == CAPACITY + 4
    assert live["window"]["lost"] == 0
    assert [(one["source"], one["after"], one["count"]) for one in live["seen"]] == [
        ("demo/client", "DENIED", CAPACITY)
    ]


def test_what_is_no_ring_and_no_archive_is_refused_by_name(past: Past, change: Path, tmp_path: Path) -> None:
    log = copy_of(past.agent.state / "log.db", tmp_path)
    shutil.copy(past.agent.state / "flows.ring", tmp_path / "flows.ring")
    preview = ("policy", "preview", "-f", str(change), "--log", str(log), "--flows")
    bad = past.agent.cplane(*preview, str(tmp_path / "flows.ring"), check=False)
    assert (bad.returncode, "copy flows.ring.tables too, after the ring" in bad.stderr) == (1, True)
    none = past.agent.cplane(*preview, str(tmp_path / "nothing"), check=False)
    assert (none.returncode, none.stderr) == (1, f"cplane: {tmp_path}/nothing: No such file or directory\n")
