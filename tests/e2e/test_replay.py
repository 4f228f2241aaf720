"""Questions about the past, of a live agent and of its copied log: what is known to have been so is what they say."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import asking
from tests.support.agent import Agent
from tests.support.laptop import add_pods, copy_of
from tests.support.site import policy

pytestmark = pytest.mark.slow

FIRST: Final = policy("web", "web", 'ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}]}]}]')
SECOND: Final = policy("web", "web", 'ingress: [{toPorts: [{ports: [{port: "443", protocol: TCP}]}]}]')
OTHER: Final = policy("client", "client", "egressDeny: [{toEntities: [world]}]")
TABLES: Final = {"policymap": "policy", "ipcache": "ipcache", "addresses": "lxc", "devices": "devices"}


class Past:
    """The positions at which something was done, and the two ways to ask about them."""

    def __init__(self, agent: Agent, log: Path, positions: dict[str, int]) -> None:
        self.agent, self.log, self.at = agent, log, positions

    def ask(self, *arguments: str) -> Any:
        """What a command says in JSON, which is the same of the agent and of the copy."""
        live = self.agent.ask(*arguments)
        copied = self.agent.ask(*arguments, "--log", str(self.log))
        assert live == copied
        return live


@pytest.fixture(scope="module")
def past(laptop: Agent, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    positions: dict[str, int] = {}

    def done(what: str) -> None:
        positions[what] = laptop.ask("status")["head"]

    add_pods(laptop, "web", "client")
    done("pods")
    asking.apply(laptop, FIRST)
    done("first")
    asking.apply(laptop, f"{SECOND}---\n{OTHER}")
    done("second")
    laptop.cplane("policy", "delete", "client", "-n", "demo")
    done("deleted")
    laptop.cplane("config", "PolicyEnforcement=always")
    done("always")
    log = copy_of(laptop.state / "log.db", tmp_path_factory.mktemp("copy"))
    yield Past(laptop, log, positions)
    laptop.cplane("config", "PolicyEnforcement=default")
    asking.ask(laptop, asking.lift_all)


def ports_in(past: Past, what: str) -> set[str]:
    rows = past.ask("replay", "--to", str(past.at[what]), "--show", "policymap", "1")["rows"]
    return {row["port"] for row in rows if row["direction"] == "ingress" and row["peer"] == "ANY"}


def test_the_policy_map_of_an_endpoint_is_what_it_was_at_each_position(past: Past) -> None:
    assert ports_in(past, "first") == {"80"}
    assert ports_in(past, "second") == ports_in(past, "deleted") == {"443"}


def test_policies_are_those_that_there_were(past: Past) -> None:
    def names(what: str) -> list[str]:
        rows = past.ask("replay", "--to", str(past.at[what]), "--show", "policies")["rows"]
        return [row["name"] for row in rows]

    assert names("pods") == []
    assert names("first") == ["web"]
    assert names("second") == ["client", "web"]
    assert names("deleted") == ["web"]


@pytest.mark.parametrize("shown", TABLES)
def test_a_table_of_the_present_is_what_the_datapath_has(past: Past, shown: str) -> None:
    name = TABLES[shown]
    listed = past.agent.ask("bpf", name, "list")["rows"]
    rows = past.ask("replay", "--show", shown)["rows"]
    assert [row["key"] | row["actual"] for row in listed] == rows
    assert rows


def test_the_tables_print_as_those_of_the_datapath(past: Past) -> None:
    listed = past.agent.cplane("bpf", "ipcache", "list").stdout.splitlines()
    shown = past.agent.cplane("replay", "--show", "ipcache").stdout.splitlines()
    assert [line.split() for line in listed] == [line.split() for line in shown]


def test_a_diff_says_what_changed_and_who_did_it(past: Past) -> None:
    found = past.ask("diff", str(past.at["first"]), str(past.at["deleted"]))
    (change,) = found["intent"]
    assert (change["object"], change["action"]) == ("policy CiliumNetworkPolicy/demo/web", "changed")
    assert "-      - port: '80'" in change["diff"].splitlines()
    assert [event["actor"] for event in change["events"]] == ["uid:0(root)"]
    assert past.at["first"] < change["events"][0]["position"] <= past.at["second"]
    rows = {table["table"]: table["rows"] for table in found["tables"]}
    assert rows["policymap"]
    assert not rows["ipcache"] and not rows["devices"]


def test_a_diff_backwards_is_the_same_the_other_way_round(past: Past) -> None:
    there = past.ask("diff", str(past.at["pods"]), "head", "--tables", "intent")
    back = past.ask("diff", "head", str(past.at["pods"]), "--tables", "intent")
    assert [(one["object"], one["before"], one["after"]) for one in there["intent"]] == [
        (one["object"], one["after"], one["before"]) for one in back["intent"]
    ]
    assert {one["object"] for one in there["intent"]} == {"policy CiliumNetworkPolicy/demo/web", "options"}
    assert there["tables"] == []


def test_nothing_differs_between_a_moment_and_itself(past: Past) -> None:
    shown = past.agent.cplane("diff", "head", "head").stdout
    assert shown.splitlines()[-1] == "nothing differs"


def test_a_diff_reads_like_a_page(past: Past) -> None:
    lines = past.agent.cplane("diff", str(past.at["second"]), str(past.at["always"])).stdout.splitlines()
    assert f"position {past.at['second']} " in lines[0]
    assert "- policy CiliumNetworkPolicy/demo/client removed" in lines
    assert "~ options changed" in lines
    assert "    +policy_enforcement: always" in lines
    assert any(line.startswith("table policymap: ") for line in lines)


def test_following_shows_every_event_with_what_it_changed(past: Past) -> None:
    last = past.at["second"]
    arguments = ("replay", "--follow", "--from", str(past.at["first"]), "--to", str(last), "-o", "json")
    live = past.agent.cplane(*arguments).stdout
    assert live == past.agent.cplane(*arguments, "--log", str(past.log)).stdout
    steps = [json.loads(line) for line in live.splitlines()]
    assert [one["position"] for one in steps] == list(range(past.at["first"], last + 1))
    assert steps[0]["object"] == "policy CiliumNetworkPolicy/demo/web"
    assert steps[0]["tables"]["policymap"]["added"] > 0
    assert steps[0]["actor"] == "uid:0(root)"


def test_times_lead_to_positions(past: Past) -> None:
    (entry,) = [one for one in _entries(past) if one["position"] == past.at["first"]]
    shown = past.ask("replay", "--to", entry["time"], "--show", "policies")
    assert shown["position"] >= past.at["first"]
    assert shown["time"] == entry["time"]
    assert past.ask("replay", "--to", "0s")["position"] == past.at["always"]
    assert past.ask("diff", "-0s", "head")["before"] == past.at["always"]


def _entries(past: Past) -> list[dict[str, Any]]:
    return [json.loads(line) for line in past.agent.cplane("log", "-o", "json").stdout.splitlines()]


REFUSED: Final = {
    ("replay", "--to", "100000"): "is not there yet: the log goes from position 1",
    ("replay", "--to", "52w"): "before the log: the log goes from position 1",
    ("replay", "--to", "2999-01-01"): "still to come",
    ("replay", "--to", "tomorrow"): "is no position and no time; write a position",
    ("replay", "--show", "endpoints", "77"): "there is no endpoint 77",
    ("replay", "--show", "node", "1"): "node is not by endpoint",
    ("diff", "1", "head", "--tables", "services"): "known are intent, policymap, ipcache, addresses, devices",
    ("replay", "--follow", "--from", "9", "--to", "3"): "is behind the last",
}


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_what_cannot_be_answered_is_refused_with_what_can(past: Past, arguments: tuple[str, ...]) -> None:
    for more in ((), ("--log", str(past.log))):
        done = past.agent.cplane(*arguments, *more, check=False)
        assert done.returncode == 1, done
        assert REFUSED[arguments] in done.stderr
        assert done.stdout == ""


def test_both_a_log_and_a_server_are_one_too_many(past: Past) -> None:
    command = ("--server", "unix:///nowhere.sock", "replay", "--log", str(past.log))
    done = past.agent.cplane(*command, check=False)
    assert (done.returncode, "give one of them" in done.stderr) == (2, True)


def test_the_copied_log_is_only_read(past: Past, tmp_path: Path) -> None:
    log = copy_of(past.log, tmp_path)
    before = log.read_bytes()
    past.agent.cplane("diff", "1", "head", "--log", str(log))
    past.agent.cplane("replay", "--follow", "--log", str(log))
    assert log.read_bytes() == before


def test_an_agent_goes_on_while_somebody_asks_about_its_past(past: Past) -> None:
    agent = past.agent
    command = ["cplane", "replay", "--follow", "--speed", "20"]
    asked = subprocess.Popen(command, env=agent.environment, stdout=subprocess.PIPE, text=True)
    try:
        head = agent.ask("status")["head"]
        asking.apply(agent, FIRST)
        assert agent.ask("status")["head"] > head
        asking.apply(agent, SECOND)
    finally:
        asked.terminate()
        assert asked.stdout is not None
        asked.stdout.close()
        asked.wait(20)
