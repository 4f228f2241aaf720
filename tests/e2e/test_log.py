"""A live agent's log, proven and copied away while it runs, and an agent that goes on with what was archived."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.agent import BIN, Agent
from tests.support.site import policy

pytestmark = pytest.mark.slow


def web(port: int) -> str:
    """A policy that differs for each port."""
    rule = f'ingress: [{{toPorts: [{{ports: [{{port: "{port}", protocol: TCP}}]}}]}}]'
    return policy("web", "web", rule)


def apply(agent: Agent, *ports: int) -> None:
    for port in ports:
        agent.cplane("policy", "apply", "-f", "-", given=web(port))


def state(agent: Agent) -> object:
    """What is so."""
    return [agent.ask("policy", "list"), agent.ask("bpf", "policy", "list"), agent.ask("identity", "list")]


def test_a_checkpoint_of_a_live_agent_is_proven_by_it_and_by_its_file(laptop: Agent, tmp_path: Path) -> None:
    apply(laptop, 1, 2)
    file, key = tmp_path / "then", tmp_path / "audit.key"
    file.write_text(laptop.cplane("log", "checkpoint", "--key", str(key), "--generate-key").stdout)
    assert file.read_text().startswith("cplane-checkpoint 1\ncluster default\nnode node\nposition ")
    apply(laptop, 3)
    proof = ("log", "verify", "--checkpoint", str(file), "--public-key", f"{key}.pub")
    assert laptop.ask(*proof)["checkpoint_fault"] == ""
    assert laptop.ask(*proof, "--log", str(laptop.state / "log.db"))["checkpoint_fault"] == ""
    file.write_text(file.read_text().partition("signature")[0].replace("digest ", "digest 0")[:-1] + "\n")
    done = laptop.cplane("log", "verify", "--checkpoint", str(file), check=False)
    assert (done.returncode, "is no checkpoint" in done.stderr) == (1, True)


def test_an_export_of_a_live_agent_is_that_of_its_file_and_makes_the_same_log(laptop: Agent, tmp_path: Path) -> None:
    apply(laptop, 4, 5)
    live = laptop.cplane("log", "export").stdout
    log = laptop.state / "log.db"
    assert live == laptop.cplane("log", "export", "--log", str(log)).stdout
    new = tmp_path / "new.db"
    laptop.cplane("log", "import", "-", "--log", str(new), given=live)
    assert laptop.ask("replay", "--log", str(new)) == laptop.ask("replay", "--log", str(log))
    packed = subprocess.run(
        [BIN / "cplane", "log", "export", "--zstd"], env=laptop.environment, capture_output=True, check=True
    ).stdout
    assert len(packed) < len(live) / 2
    part = [json.loads(line) for line in laptop.cplane("log", "export", "--from", "3", "--to", "4").stdout.splitlines()]
    assert (part[0]["first"], part[1]["position"], part[2]["position"], part[3]["events"]) == (3, 3, 4, 2)


def test_an_agent_goes_on_with_an_archived_and_with_a_compacted_log(laptop: Agent) -> None:
    apply(laptop, *range(10, 16))
    before, log = state(laptop), laptop.state / "log.db"
    refused = laptop.cplane("log", "archive", "--log", str(log), check=False)
    assert (refused.returncode, "is in use by process" in refused.stderr) == (1, True)
    laptop.stop()
    head = laptop.ask("log", "archive", "--log", str(log), "--keep", "2")["last_archived"] + 2
    laptop.start()
    assert state(laptop) == before
    shown = laptop.cplane("log", "-o", "json").stdout.splitlines()
    assert [json.loads(line)["position"] for line in shown][:head] == list(range(1, head + 1))
    assert laptop.ask("log", "verify")["ok"]
    laptop.kill()
    laptop.cplane("log", "compact", "--log", str(log), "--keep", "head")
    laptop.start()
    assert state(laptop) == before
    found = laptop.ask("log", "verify")
    assert (found["ok"], found["start"]) == (True, head - 2)
    apply(laptop, 20)
    shown = laptop.cplane("log", "-o", "json").stdout.splitlines()
    assert json.loads(shown[0])["position"] == head - 1
    gone = laptop.cplane("replay", "--to", "3", check=False)
    assert (gone.returncode, f"the log goes from position {head - 1}" in gone.stderr) == (1, True)
