"""`cplane why` and `cplane bisect`, of a live agent and of its copied log: questions whose answers are known."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import asking
from tests.support.agent import Agent
from tests.support.flow_lines import line
from tests.support.laptop import add_pods, copy_of
from tests.support.site import policy

pytestmark = pytest.mark.slow

OPEN: Final = policy("web", "web", "ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]")
SHUT: Final = policy("web", "web", "ingress: [{fromEndpoints: [{matchLabels: {app: admin}}]}]")
ASIDE: Final = policy("aside", "aside", "ingress: [{}]")
TRAFFIC: Final = ("--from", "demo/client", "--to", "demo/web", "--port", "80/TCP")
NAME: Final = "policy CiliumNetworkPolicy/demo/web"


class Past:
    """The positions at which something was done, and the two ways to ask about them."""

    def __init__(self, agent: Agent, log: Path, positions: dict[str, int]) -> None:
        self.agent, self.log, self.at = agent, log, positions

    def ask(self, *arguments: str) -> Any:
        """What a command says in JSON, which is the same of the agent and of the copy."""
        live = self.agent.ask(*arguments)
        assert live == self.agent.ask(*arguments, "--log", str(self.log))
        return live

    def says(self, *arguments: str) -> list[str]:
        """The lines that people read."""
        live = self.agent.cplane(*arguments).stdout
        assert live == self.agent.cplane(*arguments, "--log", str(self.log)).stdout
        return live.splitlines()


@pytest.fixture(scope="module")
def past(laptop: Agent, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    positions: dict[str, int] = {}

    def done(what: str) -> None:
        positions[what] = laptop.ask("status")["head"]

    add_pods(laptop, "web", "client")
    done("pods")
    asking.apply(laptop, OPEN)
    done("open")
    asking.apply(laptop, ASIDE)
    asking.apply(laptop, SHUT)
    done("shut")
    asking.apply(laptop, ASIDE.replace("ingress", "egress"))
    done("aside")
    yield Past(laptop, copy_of(laptop.state / "log.db", tmp_path_factory.mktemp("copy")), positions)
    asking.ask(laptop, asking.lift_all)


def test_the_verdict_of_each_moment_is_what_it_was(past: Past) -> None:
    found = {what: past.ask("why", *TRAFFIC, "--at", str(at))["verdict"] for what, at in past.at.items()}
    assert found == {"pods": "ALLOWED", "open": "ALLOWED", "shut": "DENIED", "aside": "DENIED"}


def test_a_denial_says_by_whom_since_when_and_what_is_near(past: Past) -> None:
    found = past.ask("why", *TRAFFIC)
    assert (found["verdict"], found["direction"]) == ("DENIED", "ingress")
    turned = found["turned"]
    assert (turned["object"], turned["before"], turned["after"]) == (NAME, "ALLOWED", "DENIED")
    assert turned["event"]["position"] == past.at["shut"]
    assert turned["event"]["actor"] == "uid:0(root)"
    side = {one["direction"]: one for one in found["sides"]}["ingress"]
    assert [(rule["policy"], rule["put"]["position"]) for rule in side["rules"]] == [(NAME, past.at["shut"])]
    assert side["nearest"]["rule"]["path"] == "spec.ingress[0]"
    assert found["source"]["created"]["position"] <= past.at["pods"]


def test_the_first_line_is_the_answer_and_the_rest_is_in_order(past: Past) -> None:
    lines = past.says("why", *TRAFFIC)
    assert lines[0].startswith(f"DENIED: demo/client to demo/web, 80/TCP (position {past.at['aside']}, ")
    wanted = ("why", "ingress of demo/web: DENIED", "last changed", "what would have allowed it")
    places = [lines.index(one) for one in wanted]
    assert places == sorted(places)
    assert any(f"position {past.at['shut']}, " in one and "uid:0(root)" in one for one in lines)
    assert "    +        app: admin" in lines


def test_it_can_be_drawn_as_a_tree(past: Past) -> None:
    lines = past.says("why", *TRAFFIC, "-o", "tree")
    assert lines[0].startswith("DENIED: ")
    assert any(one.startswith("├── last changed") for one in lines)


def test_a_flow_in_a_file_is_judged_by_its_position(past: Past, tmp_path: Path) -> None:
    endpoints = {one["pod"]: one for one in past.agent.ask("endpoint", "list")["endpoints"]}
    (entry,) = [one for one in _entries(past) if one["position"] == past.at["shut"]]
    client, web = endpoints["client"], endpoints["web"]
    recorded = line(
        time=entry["time"],
        IP={"source": client["ipv4"], "destination": web["ipv4"]},
        source={"ID": client["id"], "identity": client["identity"], "namespace": "demo", "pod_name": "client"},
        destination={"ID": web["id"], "identity": web["identity"], "namespace": "demo", "pod_name": "web"},
        extensions={"@type": "x", "position": str(past.at["open"])},
        uuid="0f6f2c1e-7a4b-4d2a-9b5e-0123456789ab",
    )
    file = tmp_path / "flows.json"
    file.write_bytes(recorded + b"\n" + line() + b"\n")
    found = past.ask("why", "0f6f2c1e-7a4b-4d2a-9b5e-0123456789ab", "--flow", str(file))
    assert (found["verdict"], found["position"]) == ("ALLOWED", past.at["open"])
    assert f"judged by position {past.at['open']}; position {past.at['open'] + 1}" in found["flow"]["note"]


def _entries(past: Past) -> list[dict[str, Any]]:
    return [json.loads(one) for one in past.agent.cplane("log", "-o", "json").stdout.splitlines()]


def test_the_event_that_changed_the_verdict_is_found(past: Past) -> None:
    found = past.ask("bisect", *TRAFFIC, "--good", str(past.at["pods"]), "--bad", "head")
    assert found["turned"]["event"]["position"] == past.at["shut"]
    lines = past.says("bisect", *TRAFFIC, "--good", str(past.at["pods"]), "--bad", "head")
    assert f"ALLOWED until position {past.at['shut']} made it DENIED" in lines[0]


def test_the_event_that_added_a_row_is_found(past: Past) -> None:
    (web,) = [one for one in past.agent.ask("endpoint", "list")["endpoints"] if one["pod"] == "web"]
    arguments = ("--table", "ipcache", "--has", f"{web['ipv4']}/32", "--good", "1", "--bad", "head")
    found = past.ask("bisect", *arguments)
    assert found["turned"]["object"] == f"endpoint {web['id']}"


def test_two_moments_with_the_same_answer_are_told_with_it(past: Past) -> None:
    arguments = ("bisect", *TRAFFIC, "--good", str(past.at["pods"]), "--bad", str(past.at["open"]))
    for more in ((), ("--log", str(past.log))):
        done = past.agent.cplane(*arguments, *more, check=False)
        assert done.returncode == 1
        assert done.stdout.splitlines()[0].endswith("ALLOWED at both positions, nothing to find")


REFUSED: Final = {
    ("why", "--from", "demo/nobody", "--to", "demo/web", "--port", "80/TCP"): (1, "there is no pod demo/nobody"),
    ("why", *TRAFFIC, "--at", "1"): (1, "there is no pod demo/client at position 1; at position"),
    ("why", *TRAFFIC, "--at", "99999"): (1, "is not there yet"),
    ("why", "--from", "demo/web"): (2, "--to and --port missing"),
    ("why", *TRAFFIC[:-1], "80"): (2, "write 80/TCP"),
    ("why", *TRAFFIC[:-1], "80/TCP", "--header", "a:b"): (2, "write http too"),
    ("why", *TRAFFIC, "--http", ""): (2, "--http is empty: say what is asked for, or leave it out"),
    ("bisect", *TRAFFIC, "--dns", " ", "--good", "1", "--bad", "2"): (2, "--dns is empty"),
    ("why", *TRAFFIC, "--at", ""): (2, "it is empty: name a moment, or leave the option out"),
    ("why", "no-uuid"): (2, "is no uuid of a flow"),
    ("bisect", "--good", "1", "--bad", "2"): (2, "ask about traffic"),
    ("bisect", *TRAFFIC, "--table", "ipcache", "--good", "1", "--bad", "2"): (2, "either about traffic or about"),
    ("bisect", "--table", "ipcache", "--good", "1", "--bad", "2"): (2, "give --has or --count-gt"),
    ("bisect", *TRAFFIC, "--good", "1", "--bad", "tomorrow"): (1, "is no position and no time"),
}


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_what_cannot_be_answered_is_refused_with_what_can(past: Past, arguments: tuple[str, ...]) -> None:
    code, said = REFUSED[arguments]
    for more in ((), ("--log", str(past.log))):
        done = past.agent.cplane(*arguments, *more, check=False)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert said in done.stderr


def test_a_flow_that_nobody_has_is_told(past: Past) -> None:
    uuid = "00000000-0000-4000-8000-000000000000"
    done = past.agent.cplane("why", uuid, check=False)
    assert (done.returncode, f"no flow '{uuid}'" in done.stderr) == (1, True), done
    done = past.agent.cplane("why", uuid, "--log", str(past.log), check=False)
    assert (done.returncode, "say with --flows PATH" in done.stderr) == (2, True)


@pytest.mark.parametrize("command", ["why", "bisect"])
def test_the_help_has_examples_and_exit_codes(past: Past, command: str) -> None:
    shown = past.agent.cplane(command, "--help").stdout
    assert shown.count(f"  cplane {command} ") >= 2
    assert "Exit codes:" in shown
