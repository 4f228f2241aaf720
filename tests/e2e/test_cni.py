"""The plugin as a runtime calls it: every verb in every version of the specification, against a running agent."""

import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from cplane.api.cni import wire
from tests.support import asking
from tests.support.cni_client import CniClient
from tests.support.netns import Namespace
from tests.support.pods import PLUGIN, Pod, installed
from tests.support.site import Site, policy

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

KILLS: Final = 20
ADD_S: Final = 0.15  # longer than an ADD takes on an idle machine
SEED: Final = 20


@pytest.fixture
def box(place: Site) -> Iterator[Namespace]:
    """A namespace that is nobody's yet; nothing of the plugin's is left of it afterwards."""
    before = sorted(place.left())
    made = Namespace(f"{place.name}-box")
    subprocess.run(["ip", "netns", "add", made.name], check=True)
    try:
        yield made
    finally:
        subprocess.run(["ip", "netns", "delete", made.name], check=True)
    assert sorted(place.left()) == before


def client(place: Site, version: str = "1.1.0", plugin: tuple[str, ...] = PLUGIN) -> CniClient:
    """A runtime of that version."""
    return CniClient(f"{place.agent.run_dir}/cni.sock", version, "cplane", plugin, by_environment=True)


def addresses(document: Any) -> list[str]:  # Any: JSON
    """The addresses of a result."""
    return [one["address"].partition("/")[0] for one in document["ips"]]


def reaches_backend(place: Site, box: Namespace, document: Any) -> bool:  # Any: JSON
    """Whether the box's pod gets an answer from the backend by both families."""
    ipv4, ipv6 = addresses(document)
    pod, backend = Pod("box", box, {}, ipv4, ipv6), place["backend"]
    return pod.reach(backend.ipv4) and pod.reach(backend.ipv6)


@pytest.mark.parametrize("version", wire.VERSIONS)
def test_a_pod_of_every_version_is_added_checked_reached_and_deleted(place: Site, box: Namespace, version: str) -> None:
    runtime = client(place, version)
    added = runtime.add("box", box.path)
    assert added.ok, added
    assert added.document["cniVersion"] == version
    assert ("version" in added.document["ips"][0]) is (version < "1.0.0")
    assert reaches_backend(place, box, added.document)
    checked = runtime.check("box", box.path)
    assert checked.ok is (version >= "0.4.0"), checked
    gone = runtime.delete("box", box.path)
    assert (gone.ok, gone.document) == (True, None)
    assert box.interfaces() == set()


def test_the_plugin_does_the_same_where_it_is_installed(place: Site, box: Namespace, tmp_path: Path) -> None:
    runtime = client(place, plugin=installed(tmp_path / "bin"))
    added = runtime.add("box", box.path)
    assert added.ok, added
    assert reaches_backend(place, box, added.document)
    assert runtime.check("box", box.path).ok
    assert runtime.delete("box", box.path).ok
    assert box.interfaces() == set()


def test_the_versions_that_the_plugin_speaks_are_told(place: Site) -> None:
    reply = client(place).run("VERSION", {"cniVersion": "1.0.0"})
    assert reply.document["supportedVersions"] == ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    assert client(place, "0.2.0").add("box", "/run/netns/none").code == wire.INCOMPATIBLE_VERSION


def test_adding_again_gives_the_same_answer_and_deleting_again_is_no_error(place: Site, box: Namespace) -> None:
    runtime = client(place)
    first, again = runtime.add("box", box.path), runtime.add("box", box.path)
    assert first.document == again.document
    for netns in (box.path, box.path, "", "/run/netns/no-such"):
        assert runtime.delete("box", netns).ok
    assert runtime.delete("never-heard-of", "").ok


def test_each_interface_of_a_pod_is_reached_at_its_own_addresses(place: Site, box: Namespace) -> None:
    runtime = client(place)
    added = [runtime.add("box", box.path, interface) for interface in ("eth0", "net1")]
    asked = [address for one in added for address in addresses(one.document)]
    pinged = [place[name].reach(address, "icmp") for name in ("backend", "host", "world") for address in asked]
    for interface in ("eth0", "net1"):
        assert runtime.delete("box", box.path, interface).ok
    assert pinged == [True] * 12


def test_a_pod_is_deleted_when_only_its_name_is_left(place: Site) -> None:
    runtime = client(place)
    before = sorted(place.left())
    box = Namespace(f"{place.name}-short")
    subprocess.run(["ip", "netns", "add", box.name], check=True)
    assert runtime.add("short", box.path).ok
    subprocess.run(["ip", "netns", "delete", box.name], check=True)
    assert runtime.delete("short", "").ok
    asking.until(lambda: sorted(place.left()) == before, "nothing is left of the pod")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (("address", "del", "{ipv4}/32", "dev", "eth0"), "eth0 has lost its address"),
        (("link", "set", "eth0", "down"), "eth0 is down"),
        (("link", "del", "eth0"), "the container has no interface eth0"),
    ],
)
def test_check_tells_what_is_damaged_and_a_further_add_mends_it(
    place: Site, box: Namespace, damage: tuple[str, ...], told: str
) -> None:
    runtime = client(place)
    added = runtime.add("box", box.path)
    ipv4, _ = addresses(added.document)
    box.ip(*(part.format(ipv4=ipv4) for part in damage))
    checked = runtime.check("box", box.path)
    assert checked.code == wire.UNHEALTHY
    assert told in checked.document["msg"] + checked.document.get("details", "")
    again = runtime.add("box", box.path)
    assert addresses(again.document) == addresses(added.document)
    assert runtime.check("box", box.path).ok
    assert reaches_backend(place, box, again.document)
    assert runtime.delete("box", box.path).ok


def test_gc_removes_what_the_runtime_has_forgotten_and_nothing_else(place: Site, box: Namespace) -> None:
    runtime = client(place)
    assert runtime.add("box", box.path).ok
    known = [(place.pods.container(pod.name), "eth0") for pod in place.pods]
    assert runtime.gc(*known, ("box", "eth0")).ok
    assert box.interfaces() == {"eth0"}
    assert runtime.gc(*known).ok
    assert box.interfaces() == set()
    assert len(asking.endpoints(place.agent)) == len(known)


def test_labels_of_the_runtime_decide_what_a_pod_may(place: Site, box: Namespace) -> None:
    place.apply(policy("backend", "backend", "ingress:\n- fromEndpoints: [{matchLabels: {app: ours}}]"))
    runtime = client(place)
    for labels, allowed in (("app=theirs", False), ("app=ours", True)):
        arguments = f"K8S_POD_NAMESPACE=demo;K8S_POD_NAME=box;CPLANE_LABELS={labels}"
        added = runtime.add("box", box.path, args=arguments)
        assert added.ok, added
        ipv4, ipv6 = addresses(added.document)
        reached = Pod("box", box, {}, ipv4, ipv6).reach(place["backend"].ipv4, timeout_s=5 if allowed else 0.6)
        assert reached is allowed
        assert runtime.delete("box", box.path).ok


@pytest.mark.parametrize(
    ("verb", "changes", "environment", "code", "told"),
    [
        ("ADD", {"ipam": {"type": "host-local"}}, {}, 2, "ipam"),
        ("ADD", {"mtu": 5}, {}, 7, "mtu 5"),
        ("ADD", {"args": {"cplane": {"labels": {"reserved:host": ""}}}}, {}, 7, "reserved"),
        ("ADD", {"colour": "red"}, {}, 2, "colour"),
        ("ADD", {}, {"netns": "/etc/hostname"}, 4, "CNI_NETNS"),
        ("ADD", {}, {"interface": "much-too-long-a-name"}, 4, "CNI_IFNAME"),
        ("ADD", {}, {"container": "../box"}, 4, "CNI_CONTAINERID"),
        ("ADD", {}, {"args": "nonsense"}, 4, "CNI_ARGS"),
        ("CHECK", {}, {}, 7, "prevResult"),
        ("DANCE", {}, {}, 4, "CNI_COMMAND"),
        ("GC", {}, {}, 7, "cni.dev/valid-attachments"),
    ],
)
def test_a_request_that_is_wrong_is_refused_by_number_and_name_and_leaves_nothing(
    place: Site,
    box: Namespace,
    verb: str,
    changes: dict[str, Any],  # Any: JSON
    environment: dict[str, str],
    code: int,
    told: str,
) -> None:
    runtime = client(place)
    variables = {"container": "box", "netns": box.path, "interface": "eth0", **environment}
    reply = runtime.run(verb, runtime.config(**changes), **variables)
    assert (reply.status, reply.code) == (1, code), reply
    assert told in reply.document["msg"]


def test_what_is_not_json_is_refused_by_number(place: Site, box: Namespace) -> None:
    for raw in (b"", b"{", b"\xff", b"[" * 100_000):
        reply = client(place).run("ADD", None, container="box", netns=box.path, interface="eth0", raw=raw)
        assert (reply.status, reply.code) == (1, wire.DECODE_FAILURE), reply


def test_while_the_agent_is_away_an_add_is_to_be_retried_and_a_deletion_is_kept(place: Site, box: Namespace) -> None:
    runtime = client(place)
    assert runtime.status().ok
    assert runtime.add("box", box.path).ok
    place.agent.kill()
    try:
        assert runtime.status().code == wire.NOT_AVAILABLE
        assert runtime.add("other", box.path, "net1").code == wire.TRY_AGAIN_LATER
        assert runtime.check("box", box.path).code == wire.TRY_AGAIN_LATER
        assert runtime.delete("box", "").ok
        assert runtime.delete("box", "").ok
        assert box.interfaces() == {"eth0"}
    finally:
        place.agent.start()
    assert box.interfaces() == set()
    assert "box" not in asking.endpoints(place.agent)
    assert runtime.status().ok


class Killed:
    """An ADD whose plugin is killed after so many seconds, if it has not ended by then."""

    def __init__(self, place: Site, box: Namespace, after_s: float) -> None:
        runtime = client(place)
        environment = {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": "box",
            "CNI_NETNS": box.path,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            "CPLANE_CNI_SOCKET": runtime.socket,
            **place.agent.environment_of_agent(),
        }
        with subprocess.Popen(
            PLUGIN, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        ) as plugin:
            try:
                plugin.communicate(json.dumps(runtime.config()).encode(), timeout=after_s)
            except subprocess.TimeoutExpired:
                plugin.send_signal(signal.SIGKILL)
            self.in_time = plugin.wait() == 0


def test_a_plugin_that_is_killed_at_any_instant_of_an_add_leaves_nothing_after_a_deletion(
    place: Site, box: Namespace
) -> None:
    chance = random.Random(SEED)
    before = sorted(place.left())
    outcomes = []
    for _ in range(KILLS):
        outcomes.append(Killed(place, box, chance.uniform(0, ADD_S)).in_time)
        assert client(place).delete("box", box.path).ok
        assert sorted(place.left()) == before
        assert box.interfaces() == set()
    assert not all(outcomes)
    assert place.unequal() == []


def test_pods_whose_plugin_was_killed_and_that_nobody_deletes_are_swept_when_the_agent_starts(place: Site) -> None:
    """The runtime is gone with them, so there is no DEL; their namespaces go, and the agent is started anew."""
    chance = random.Random(SEED)
    before = sorted(place.left())
    for number in range(3):
        box = Namespace(f"{place.name}-killed{number}")
        subprocess.run(["ip", "netns", "add", box.name], check=True)
        try:
            Killed(place, box, chance.uniform(0, ADD_S))
        finally:
            subprocess.run(["ip", "netns", "delete", box.name], check=True)
        place.agent.kill()
        place.agent.start()
        asking.until(lambda: sorted(place.left()) == before, "nothing is left of the pod")
    assert place.unequal() == []
