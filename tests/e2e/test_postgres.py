"""Agents whose logs are in one PostgreSQL database, which goes away and comes back."""

import json
import os
import signal
import subprocess
from itertools import count

import pytest

from tests.support import asking
from tests.support.agent import Agent
from tests.support.postgres import NEEDS_POSTGRES, server
from tests.support.postgres_proxy import Proxy

pytestmark = [pytest.mark.slow, NEEDS_POSTGRES]
numbers = count()


@pytest.fixture
def mortal():
    with server() as made:
        yield made


@pytest.fixture
def agent_of(tmp_path_factory, mortal):
    """Makes agents of nodes, whose logs are in one database."""
    made = []

    def make(node, url):
        name = f"cptpg{os.getpid()}-{next(numbers)}"
        options = ("--log", url, "--node-name", node)
        made.append(Agent(tmp_path_factory.mktemp("a"), name, datapath="memory", options=options))
        return made[-1]

    yield make
    for one in made:
        one.remove()


def test_a_database_that_went_away_stops_commands_and_nothing_else(mortal, agent_of):
    with mortal.database() as name:
        agent = agent_of("n1", mortal.url(name))
        agent.start()
        agent.cplane("config", "PolicyAuditMode=Enabled", "--wait")
        mortal.stop(signal.SIGKILL)
        refused = agent.cplane("config", "PolicyEnforcement=always", check=False)
        assert refused.returncode != 0
        assert (
            f"event log postgresql://cptroot@/{name}?host={mortal.folder}&node=n1: connection to server"
            in refused.stderr
        )
        assert "nothing was written" in refused.stderr
        assert "in sync" in agent.cplane("status").stdout
        assert agent.cplane("config").stdout.splitlines()[:2] == [
            "PolicyEnforcement:  default",
            "PolicyAuditMode:    Enabled",
        ]
        mortal.start()
        agent.cplane("config", "PolicyEnforcement=always", "--wait")
        assert "sound" in agent.cplane("log", "verify").stdout
        agent.kill()
        agent.start()
        assert agent.cplane("config").stdout.splitlines()[0] == "PolicyEnforcement:  always"


def test_what_nobody_knew_of_is_in_force_when_the_database_is_back_though_nobody_asks(
    mortal, agent_of, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("p")
    with mortal.database() as name, Proxy(folder, mortal.folder) as proxy:
        agent = agent_of("n1", mortal.url(name).replace(str(mortal.folder), str(folder)))
        agent.start()
        proxy.lose_the_next_answer()
        unknown = agent.cplane("config", "PolicyAuditMode=Enabled", check=False)
        assert unknown.returncode != 0
        assert "it is not known whether the change was written" in unknown.stderr
        assert "PolicyAuditMode:    Disabled" in agent.cplane("config").stdout
        proxy.come_back()
        asking.until(lambda: "PolicyAuditMode:    Enabled" in agent.cplane("config").stdout, "it is in force")
        agent.stop()


def test_two_nodes_are_in_one_database_and_a_third_of_the_same_name_is_refused(mortal, agent_of):
    with mortal.database() as name:
        first, second = agent_of("n1", mortal.url(name)), agent_of("n2", mortal.url(name))
        for agent in (first, second):
            agent.start()
        second.cplane("config", "PolicyAuditMode=Enabled")
        code, told = agent_of("n1", mortal.url(name)).fails_to_start()
        assert (code, "is in use by process" in told) == (1, True)
        shown = mortal.execute("SELECT node, object FROM cluster_events WHERE kind = 'options'", name)
        assert shown == [("n2", "options")]
        for node, many in (("n1", 0), ("n2", 1)):
            command = ["cplane", "audit", "--object", "options", "-o", "json", "--log", mortal.url(name, node=node)]
            done = subprocess.run(command, env=first.environment, capture_output=True, text=True, check=True)
            assert done.stdout.count('"config.options_changed"') == many


def test_what_was_refused_is_told_after_a_restart_and_without_an_agent_also_while_the_database_was_away(
    mortal, agent_of
):
    with mortal.database() as name:
        agent = agent_of("n1", mortal.url(name))
        agent.start()
        bad = "kind: CiliumNetworkPolicy\nnonsense: 1\n"
        agent.cplane("policy", "apply", "-f", "-", given=bad, check=False)
        mortal.stop(signal.SIGKILL)
        agent.cplane("policy", "apply", "-f", "-", given=bad.replace("nonsense", "nothing"), check=False)
        mortal.start()
        place = ("--log", mortal.url(name, node="n1"))
        wanted = ["nonsense: unknown field", "nothing: unknown field"]
        asking.until(lambda: mortal.execute("SELECT count(*) FROM refusals", name) == [(2,)], "both are written")
        agent.kill()
        for where in (place, ()):
            if not where:
                agent.start()
            told = agent.cplane("audit", "--refused", "-o", "json", *where).stdout.splitlines()
            assert [word in line for word, line in zip(wanted, told, strict=True)] == [True, True], told
            assert [json.loads(line)["actor"] for line in told] == ["uid:0(root)"] * 2


def test_a_log_in_a_database_is_neither_archived_nor_compacted_and_that_is_said(mortal, agent_of):
    agent = agent_of("n1", "postgresql://db.example/cplane")
    for command in (("archive",), ("compact", "--keep", "1")):
        done = agent.cplane("log", *command, "--log", "postgresql://db.example/cplane", check=False)
        assert (done.returncode, "a log in a database stays there as a whole" in done.stderr) == (1, True)
