"""Metrics, health and exports of an agent on the memory datapath, and that dashboards ask for what there is."""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.agent import Agent, running
from tests.support.certificates import Certificates
from tests.support.cni_client import CniClient
from tests.support.pods import PLUGIN
from tests.support.site import PREFIX, policy

pytestmark = pytest.mark.slow

METRICS: Final = (
    "drop:sourceContext=pod;destinationContext=pod|reserved-identity "
    "dns flow flows-to-world http icmp kafka policy port-distribution tcp"
)
DENY: Final = policy("web", "web", "ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]")
_WORD: Final = re.compile(r"\b((?:cilium|cplane|hubble)_[a-z0-9_]+)")


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


class Metered:
    """An agent whose metrics can be read, and whose flows go to files."""

    def __init__(self, folder: Path) -> None:
        self.own, self.hubble = free_ports(2)
        self.exported, self.denied, self.flow_logs = folder / "all.log", folder / "denied.log", folder / "flowlogs.yaml"
        self.flow_logs.write_text(
            f"flowLogs: [{{name: denied, filePath: {self.denied}, includeFilters: [{{verdict: [DROPPED]}}]}}]"
        )
        self.agent = Agent(
            folder,
            f"{PREFIX}metered",
            datapath="memory",
            options=(
                *("--metrics-listen", f"127.0.0.1:{self.own}"),
                *("--hubble-metrics-listen", f"127.0.0.1:{self.hubble}"),
                *("--hubble-metrics", METRICS),
                *("--hubble-export-file-path", str(self.exported)),
                *("--hubble-flowlogs-config-path", str(self.flow_logs)),
            ),
        )

    def get(self, port: int, path: str = "/metrics") -> str:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return str(answer.read().decode())

    def samples(self, port: int) -> dict[tuple[str, ...], float]:
        return {
            (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(self.get(port))
            for sample in family.samples
        }

    def families(self, port: int) -> frozenset[str]:
        """Names of metrics, and of their samples, with and without values."""
        found = set()
        for family in text_string_to_metric_families(self.get(port)):
            found.add(family.name)
            found |= {f"{family.name}{end}" for end in ("_total", "_bucket", "_count", "_sum")}
        return frozenset(found)


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Metered]:
    """The agent, with two pods of which one may not reach the other, after it was told so."""
    made = Metered(tmp_path_factory.mktemp("metered"))
    try:
        made.agent.start()
        runtime = CniClient(f"{made.agent.run_dir}/cni.sock", network="cplane", plugin=PLUGIN, by_environment=True)
        addresses = []
        for name in ("web", "stranger"):
            config = runtime.config(args={"cplane": {"labels": {"app": name}, "namespace": "demo", "pod": name}})
            added = runtime.run("ADD", config, container=name, netns=f"/run/netns/nobody-{name}", interface="eth0")
            assert added.ok, added
            addresses.append(added.document["ips"][0]["address"].partition("/")[0])
        made.agent.cplane("policy", "apply", "-f", "-", given=DENY)
        web, stranger = addresses
        made.agent.cplane("probe", stranger, web, "--port", "80", check=False)
        made.agent.cplane("probe", web, stranger, "--port", "443", check=False)
        yield made
    finally:
        made.agent.remove()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)  # another process's progress


def test_flows_are_counted_under_upstreams_names(metered: Metered) -> None:
    denied = ("hubble_drop_total", "demo/web", "TCP", "POLICY_DENIED", "demo/stranger")
    asked_last = ("hubble_port_distribution_total", "443", "TCP")
    eventually(lambda: {denied, asked_last} <= metered.samples(metered.hubble).keys())
    found = metered.samples(metered.hubble)
    assert found[denied] == 2, "the verdict and the drop"
    assert found["hubble_policy_verdicts_total", "dropped", "ingress", "none"] == 1
    assert found[asked_last] >= 1
    assert found["hubble_tcp_flags_total", "IPv4", "SYN"] >= 1


def test_the_agent_tells_what_it_has_and_how_far_it_is(metered: Metered) -> None:
    found = metered.samples(metered.own)
    assert found["cilium_endpoint",] == found["cilium_endpoint_count",] == 2
    assert found["cilium_endpoint_state", "ready"] == 2
    assert found["cilium_policy",] == 1
    assert found["cilium_policy_endpoint_enforcement_status", "ingress"] == 1
    assert found["cilium_policy_endpoint_enforcement_status", "none"] == 1
    assert found["cilium_identity", "cluster_local"] == 2
    assert found["cilium_drop_count_total", "INGRESS", "Policy denied"] == 1
    assert found["cilium_forward_count_total", "INGRESS"] == 1
    assert found["cilium_ip_addresses", "ipv4"] == 2
    assert 0 < found["cilium_bpf_map_pressure", "lxc"] < 0.01
    assert found["cplane_log_head_position",] == found["cplane_applied_position",] > 0
    assert found["cplane_log_append_seconds_count",] > 0
    assert found["cplane_in_sync",] == 1
    assert found["cilium_process_resident_memory_bytes",] > 1e6


def test_health_is_told(metered: Metered) -> None:
    assert metered.get(metered.own, "/healthz") == "ok\n"


def test_flows_are_exported_to_each_file_that_wants_them(metered: Metered) -> None:
    eventually(lambda: metered.denied.exists() and metered.denied.stat().st_size > 0)
    lines = [json.loads(line) for line in metered.denied.read_text().splitlines()]
    assert {line["flow"]["verdict"] for line in lines} == {"DROPPED"}
    assert lines[0]["flow"]["destination"]["pod_name"] == "web"
    eventually(lambda: len(metered.exported.read_text().splitlines()) > len(lines))
    assert metered.samples(metered.hubble)["hubble_dynamic_exporter_up", "denied"] == 1


def test_metrics_are_served_over_tls_to_clients_with_a_certificate(tmp_path: Path) -> None:
    files = Certificates(tmp_path)
    for name in ("one", "two", "scraper"):
        files.make(name)
    files.serve_as("one")
    own, hubble = free_ports(2)
    options = []
    for listen, prefix, port in (("metrics", "prometheus", own), ("hubble-metrics", "hubble-metrics-server", hubble)):
        options += [f"--{listen}-listen", f"127.0.0.1:{port}", f"--{prefix}-enable-tls"]
        options += [f"--{prefix}-tls-cert-file", files.cert, f"--{prefix}-tls-key-file", files.key]
        options += [f"--{prefix}-tls-client-ca-files", files.of("scraper", "crt")]
    with running(tmp_path, f"{PREFIX}tls", datapath="memory", options=tuple(options)) as agent:
        for served in ("one", "two"):
            files.serve_as(served)
            for port, metric in ((own, "cplane_in_sync"), (hubble, "hubble_lost_events_total")):
                known = files.trusting(served, own="scraper")
                with urlopen(f"https://127.0.0.1:{port}/metrics", timeout=20, context=known) as answer:
                    assert metric in answer.read().decode()
                with pytest.raises(OSError):
                    urlopen(f"https://127.0.0.1:{port}/metrics", timeout=20, context=files.trusting(served)).read()
                with pytest.raises(OSError):
                    urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20).read()
        files.put(files.cert, files.of("one", "crt"))
        with urlopen(f"https://127.0.0.1:{own}/healthz", timeout=20, context=known) as answer:
            assert answer.read() == b"ok\n"
        eventually(lambda: b"the old one stays in use" in agent.told())
        agent.stop()
        refused = Agent(tmp_path, f"{PREFIX}tls", datapath="memory", options=tuple(options)).fails_to_start()
        assert refused[0] != 0
        assert "does not fit the key" in refused[1]


def expressions() -> dict[str, str]:
    """Every query of dashboards and alerts, by where it stands."""
    found = {}
    folder = resources.files("cplane.telemetry").joinpath("dashboards")
    for name in ("flows", "policy", "agent"):
        board = json.loads(folder.joinpath(f"{name}.json").read_text())
        for panel in board["panels"]:
            for target in panel["targets"]:
                found[f"{name}: {panel['title']} {target['refId']}"] = target["expr"]
        for variable in board["templating"]["list"]:
            found[f"{name}: {variable['name']}"] = variable["query"]
    for group in yaml.safe_load(folder.joinpath("alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            found[rule["alert"]] = rule["expr"]
    return found


def test_dashboards_and_alerts_ask_for_metrics_that_there_are(metered: Metered) -> None:
    there = metered.families(metered.own) | metered.families(metered.hubble)
    asked = expressions()
    assert len(asked) > 50
    missing = {where: name for where, query in asked.items() for name in _WORD.findall(query) if name not in there}
    assert missing == {}


def test_a_metric_that_nobody_knows_ends_the_agent_with_a_suggestion(tmp_path: Path) -> None:
    agent = Agent(tmp_path, f"{PREFIX}wrong", datapath="memory", options=("--hubble-metrics", "dorp"))
    status, told = agent.fails_to_start()
    assert status == 2
    assert "hubble.metrics: 'dorp': there is no metric 'dorp'; did you mean drop?" in told
    assert "hubble.metrics: nobody could read them" in told
