"""The command line against an agent on the memory datapath: what it prints, in every format, and how it ends."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support import asking
from tests.support.agent import BIN, Agent
from tests.support.cni_client import CniClient
from tests.support.pods import PLUGIN
from tests.support.site import policy

pytestmark = pytest.mark.slow

PODS: Final = ("web", "client", "stranger")
WEB: Final = policy(
    "web",
    "web",
    """
ingress:
- fromEndpoints: [{matchLabels: {app: client}}]
  toPorts: [{ports: [{port: "80", protocol: TCP}]}]
egress:
- toCIDR: [203.0.113.0/24]
""",
)
STRANGER: Final = policy("stranger", "stranger", "ingressDeny: [{fromEntities: [all]}]")
QUESTIONS: Final = (
    ("status",),
    ("endpoint", "list"),
    ("endpoint", "get", "1"),
    ("identity", "list"),
    ("ip", "list"),
    ("policy", "list"),
    ("bpf", "policy", "get", "1"),
    ("log", "verify"),
    ("probe", "10.244.0.2", "10.244.0.3", "--port", "80"),
)


@pytest.fixture(scope="module")
def addresses(laptop: Agent) -> dict[str, str]:
    """The pods' IPv4 addresses; they were added by the plugin, for namespaces that nobody made."""
    runtime = CniClient(f"{laptop.run_dir}/cni.sock", network="cplane", plugin=PLUGIN, by_environment=True)
    found = {}
    for name in PODS:
        told = {"cplane": {"labels": {"app": name}, "namespace": "demo", "pod": name}}
        config = runtime.config(args=told)
        added = runtime.run("ADD", config, container=name, netns=f"/run/netns/nobody-{name}", interface="eth0")
        assert added.ok, added
        found[name] = added.document["ips"][0]["address"].partition("/")[0]
    return found


@pytest.fixture
def agent(laptop: Agent, addresses: dict[str, str]) -> Iterator[Agent]:
    """The agent with its pods and both policies."""
    asking.apply(laptop, f"{WEB}---\n{STRANGER}")
    yield laptop
    asking.ask(laptop, asking.lift_all)


def forwarded(agent: Agent, source: str, target: str, *more: str) -> bool:
    """What `cplane probe` says."""
    return bool(agent.ask("probe", source, target, *more)["forwarded"])


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
def test_every_answer_is_the_same_as_json_and_as_yaml_and_a_table_is_for_people(
    agent: Agent, question: tuple[str, ...]
) -> None:
    def plain(document: Any) -> Any:  # Any: JSON
        if isinstance(document, dict):
            document.pop("uptime_ns", None)
        return document

    as_json = agent.cplane(*question, "-o", "json")
    as_yaml = agent.cplane(*question, "-o", "yaml")
    as_table = agent.cplane(*question)
    assert plain(json.loads(as_json.stdout)) == plain(yaml.safe_load(as_yaml.stdout))
    assert as_table.stdout
    assert not as_table.stdout.startswith(("{", "["))
    assert as_json.stderr == as_yaml.stderr == as_table.stderr == ""


def test_verdicts_follow_policies(agent: Agent, addresses: dict[str, str]) -> None:
    web, client, stranger = (addresses[name] for name in PODS)
    tcp80 = ("--port", "80")
    assert forwarded(agent, client, web, *tcp80)
    assert not forwarded(agent, client, web, "--port", "81")
    assert not forwarded(agent, client, web, *tcp80, "--protocol", "udp")
    assert not forwarded(agent, stranger, web, *tcp80)
    assert not forwarded(agent, client, stranger, *tcp80)
    assert forwarded(agent, web, "203.0.113.7", *tcp80)
    assert not forwarded(agent, web, "198.51.100.7", *tcp80)
    dropped = agent.cplane("probe", stranger, web, *tcp80).stdout
    assert dropped == "DROPPED (POLICY_DENIED, 133): the receiver's ingress policy\n"
    agent.cplane("policy", "delete", "web", "-n", "demo", "--wait")
    assert forwarded(agent, stranger, web, *tcp80)


def test_objects_of_a_file_are_created_changed_left_alone_and_deleted_together(laptop: Agent, tmp_path: Path) -> None:
    file = tmp_path / "policies.yaml"
    file.write_text(f"{WEB}---\n{STRANGER}")
    head = asking.status(laptop).head
    created = laptop.cplane("policy", "apply", "-f", str(file), "--wait").stdout.splitlines()
    assert created[:2] == ["CiliumNetworkPolicy demo/web created", "CiliumNetworkPolicy demo/stranger created"]
    file.write_text(f"{WEB.replace('80', '81')}---\n{STRANGER}")
    changed = laptop.cplane("policy", "apply", "-f", str(file), "--wait").stdout.splitlines()
    assert changed[:2] == ["CiliumNetworkPolicy demo/web changed", "CiliumNetworkPolicy demo/stranger unchanged"]
    again = laptop.cplane("policy", "apply", "-f", str(file), "--wait").stdout.splitlines()
    assert again[2] == changed[2]
    listed = laptop.cplane("policy", "list").stdout.splitlines()
    assert [line.split() for line in listed[1:]] == [
        ["CiliumNetworkPolicy", "demo", "stranger", "1", "-", "-"],
        ["CiliumNetworkPolicy", "demo", "web", "1", "-", "-"],
    ]
    document = laptop.cplane("policy", "get", "web", "-n", "demo").stdout
    assert yaml.safe_load(document) == yaml.safe_load(WEB.replace("80", "81"))
    gone = laptop.cplane("policy", "delete", "-f", str(file), "--wait").stdout.splitlines()
    assert gone[:2] == ["CiliumNetworkPolicy demo/web deleted", "CiliumNetworkPolicy demo/stranger deleted"]
    positions = [int(lines[2].removeprefix("position ")) for lines in (created, changed, gone)]
    assert head < positions[0] < positions[1] < positions[2] == asking.status(laptop).head


def test_a_list_of_kubernetes_is_a_file_of_several_objects(laptop: Agent) -> None:
    items = [yaml.safe_load(WEB), yaml.safe_load(STRANGER)]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    assert laptop.cplane("policy", "apply", "-f", "-", given=text).stdout.count(" created\n") == 2
    asking.ask(laptop, asking.lift_all)


def test_the_log_tells_who_asked_for_what_and_in_which_order(agent: Agent) -> None:
    lines = [json.loads(line) for line in agent.cplane("log", "-o", "json").stdout.splitlines()]
    assert [line["position"] for line in lines] == list(range(1, len(lines) + 1))
    upserted = [line for line in lines if line["type"] == "policy.upserted"]
    assert upserted[-1]["summary"] == "CiliumNetworkPolicy demo/stranger applied"
    assert {line["actor"].partition("(")[0] for line in upserted} == {f"uid:{os.getuid()}"}
    assert lines[0]["actor"] == "agent"
    last = agent.cplane("log", "--last", "2", "-o", "json").stdout.splitlines()
    assert [json.loads(line) for line in last] == lines[-2:]
    following = agent.cplane("log", "--from", str(lines[-1]["position"]), "-o", "json").stdout
    assert json.loads(following) == lines[-1]
    table = agent.cplane("log", "--last", "1").stdout.splitlines()
    assert table[0].split() == ["POSITION", "TIME", "ACTOR", "TYPE", "SUMMARY"]


def test_who_follows_the_log_sees_what_comes_and_ends_with_0_when_interrupted(agent: Agent) -> None:
    head = asking.status(agent).head
    # Where a shell runs the tests in the background, they and their children ignore the signal.
    listening = ("env", "--default-signal=INT")
    with subprocess.Popen(
        [*listening, str(BIN / "cplane"), "log", "-f", "--from", str(head), "-o", "json"],
        env=agent.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as follower:
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["position"] == head
        agent.cplane("policy", "delete", "stranger", "-n", "demo")
        told = json.loads(follower.stdout.readline())
        assert (told["position"], told["type"]) == (head + 1, "policy.deleted")
        follower.send_signal(signal.SIGINT)
        try:
            assert follower.wait(20) == 0
        finally:
            follower.kill()


def test_waiting_for_a_position_ends_when_it_is_there_and_fails_when_it_does_not_come(agent: Agent) -> None:
    head = asking.status(agent).head
    assert agent.cplane("wait", "--position", str(head)).stdout == f"position {head}\n"
    late = agent.cplane("wait", "--position", str(head + 1), "--timeout", "0.1", check=False)
    assert late.returncode == 1
    assert f"position {head + 1} is not in the datapath after 0.1 s: it has {head}, the log has {head}" in late.stderr
    assert agent.cplane("policy", "wait").stdout == f"position {head}\n"


def test_new_labels_are_a_new_identity_and_the_old_one_is_free(agent: Agent, addresses: dict[str, str]) -> None:
    endpoints = {one["pod"]: one for one in agent.ask("endpoint", "list")["endpoints"]}
    stranger, client = endpoints["stranger"], endpoints["client"]
    others = [label for label in stranger["labels"] if not label.startswith("k8s:app=")]
    answer = agent.ask("endpoint", "relabel", str(stranger["id"]), "app=client", *others, "--wait")
    assert answer["endpoint"]["identity"] == client["identity"]
    numbers = {one["number"] for one in agent.ask("identity", "list")["identities"]}
    assert stranger["identity"] not in numbers
    assert agent.ask("identity", "get", str(client["identity"]))["endpoints"] == sorted((stranger["id"], client["id"]))
    assert forwarded(agent, addresses["stranger"], addresses["web"], "--port", "80")
    alone = agent.cplane("endpoint", "relabel", str(stranger["id"]), "app=client", "--wait")
    assert f"endpoint {stranger['id']} has no namespace by its labels now, so policies of demo" in alone.stderr
    back = agent.cplane("endpoint", "relabel", str(stranger["id"]), *stranger["labels"], "--wait")
    assert back.stderr == ""
    assert not forwarded(agent, addresses["stranger"], addresses["web"], "--port", "80")


def test_a_prefix_has_an_identity_while_a_policy_names_it(agent: Agent) -> None:
    def prefixes() -> dict[str, int]:
        return {one["prefix"]: one["identity"] for one in agent.ask("ip", "list")["entries"]}

    number = prefixes()["203.0.113.0/24"]
    (named,) = [one for one in agent.ask("identity", "list")["identities"] if one["number"] == number]
    assert (named["scope"], "cidr:203.0.113.0/24=" in named["labels"]) == ("local", True)
    agent.cplane("policy", "delete", "web", "-n", "demo", "--wait")
    assert "203.0.113.0/24" not in prefixes()


def test_the_sockets_are_open_to_owner_and_group_alone(agent: Agent) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in agent.run_dir.iterdir() if path.is_socket()}
    assert modes == dict.fromkeys(("admin.sock", "cni.sock", "hubble.sock"), 0o660)
