"""Exports of an agent that is killed while flows come: each flow is in the files once."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest
from grpclib.exceptions import GRPCError, StreamTerminatedError

from cplane.errors import CplaneError
from cplane.hubble.exporter.mark import SUFFIX
from cplane.pb.cplane.admin import v1 as pb
from cplane.transport.client import ClientChannel
from tests.support import asking
from tests.support.agent import Agent
from tests.support.cni_client import CniClient
from tests.support.pods import PLUGIN
from tests.support.site import PREFIX, policy

pytestmark = pytest.mark.slow

DENY = policy("other", "other", 'ingressDeny: [{toPorts: [{ports: [{port: "80", protocol: TCP}]}]}]')
ROUNDS = 6
PROBES = 400  # each leaves a few flows


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """An agent with a static and a watched export, whose files are put aside often."""
    watched = tmp_path / "flowlogs.yaml"
    entry = {"name": "drops", "filePath": f"{tmp_path}/drops.log", "includeFilters": [{"verdict": ["DROPPED"]}]}
    watched.write_text(json.dumps({"flowLogs": [entry]}))
    made = Agent(
        tmp_path,
        f"{PREFIX}exports",
        datapath="memory",
        options=(
            *("--hubble-export-file-path", f"{tmp_path}/all.log", "--hubble-export-file-max-size-mb", "1"),
            *("--hubble-export-file-max-backups", "0", "--hubble-export-file-compress"),
            *("--hubble-flowlogs-config-path", str(watched)),
        ),
    )
    try:
        made.start()
        yield made
    finally:
        made.remove()


def add_pods(agent: Agent) -> list[str]:
    """Two pods, of which neither may reach the other at port 80. Returns their addresses."""
    runtime = CniClient(f"{agent.run_dir}/cni.sock", network="cplane", plugin=PLUGIN, by_environment=True)
    addresses = []
    for name in ("one", "other"):
        config = runtime.config(args={"cplane": {"labels": {"app": name}, "namespace": "demo", "pod": name}})
        added = runtime.run("ADD", config, container=name, netns=f"/run/netns/nobody-{name}", interface="eth0")
        assert added.ok, added
        addresses.append(added.document["ips"][0]["address"].partition("/")[0])
    asking.apply(agent, DENY)
    return addresses


def send(agent: Agent, source: str, destination: str, first: int) -> None:
    """Packets from ports of their own, every other of which is dropped; as many as there is an agent for."""

    async def probe(channel: ClientChannel) -> None:
        stub = pb.ProbeServiceStub(channel)
        for port in range(first, first + PROBES):
            await stub.probe(
                pb.ProbeRequest(
                    source=source, destination=destination, protocol=6, source_port=port, destination_port=80 + port % 2
                )
            )

    with suppress(GRPCError, StreamTerminatedError, OSError, CplaneError):
        asking.ask(agent, probe)


def exported(folder: Path, name: str) -> list[str]:
    """The uuids of all flows in the files of an export; every line is whole."""
    found = []
    for path in (*folder.glob(f"{name}-*"), folder / f"{name}.log"):
        text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
        found += [json.loads(line) for line in text.splitlines()]
    return [line["flow"]["uuid"] for line in found if "flow" in line]


def size(folder: Path) -> int:
    """Bytes in files of the exports."""
    return sum(path.stat().st_size for path in folder.glob("all*.log"))


def settled(folder: Path, name: str, count: int) -> bool:
    """Whether so many flows are in the files, which may just be exchanged or packed."""
    try:
        return len(exported(folder, name)) >= count
    except (OSError, EOFError, ValueError):
        return False


def test_after_kills_each_flow_is_in_the_files_once(agent: Agent) -> None:
    asking.until(lambda: len(list((agent.state / "exports").glob(f"*{SUFFIX}"))) == 2, "both exports have begun")
    source, destination = add_pods(agent)
    for number in range(ROUNDS):
        sending = Thread(target=send, args=(agent, source, destination, 1 + number * PROBES))
        sending.start()
        began = size(agent.folder)
        asking.until(lambda: size(agent.folder) != began, "flows are exported")  # noqa: B023
        agent.kill()
        sending.join()
        agent.start()
    seen = {flow["uuid"]: flow["verdict"] for flow in agent.flows("--all")}
    dropped = {uuid for uuid, verdict in seen.items() if verdict == "DROPPED"}
    assert len(dropped) > ROUNDS
    asking.until(lambda: settled(agent.folder, "all", len(seen)), "what was seen last is exported too")
    asking.until(lambda: settled(agent.folder, "drops", len(dropped)), "and what was dropped last")
    assert Counter(exported(agent.folder, "all")) == Counter(seen.keys())
    assert Counter(exported(agent.folder, "drops")) == Counter(dropped)
