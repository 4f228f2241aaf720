"""Who changed what, and back again: of a live agent and of its copied log, by the commands."""

import csv
import io
import json

import pytest

from tests.support import asking
from tests.support.agent import Agent
from tests.support.site import policy

pytestmark = pytest.mark.slow

FIRST = policy("web", "web", 'ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}]}]}]')
SECOND = policy("web", "web", 'ingress: [{toPorts: [{ports: [{port: "443", protocol: TCP}]}]}]')
WEB = "policy CiliumNetworkPolicy/demo/web"


@pytest.fixture(scope="module")
def changed(laptop: Agent) -> Agent:
    """Two versions of a policy, and something that was refused."""
    for document in (FIRST, SECOND):
        assert laptop.cplane("policy", "apply", "-f", "-", given=document).returncode == 0
    assert laptop.cplane("policy", "apply", "-f", "-", given="nonsense: 1", check=False).returncode == 1
    assert laptop.cplane("policy", "delete", "-n", "demo", "nobody", check=False).returncode == 1
    return laptop


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_each_change_is_told_with_what_it_was_before(changed: Agent) -> None:
    *_, first, second = (
        one for one in lines(changed.cplane("audit", "--object", WEB, "-o", "json").stdout) if one["type"]
    )
    assert second["before"] == first["after"]
    assert second["actor"].startswith("uid:0(")
    assert second["diff"]
    shown = changed.cplane("audit", "--object", WEB, "--diff", "--last", "1").stdout
    assert "+      - port: '443'" in shown
    assert "-      - port: '80'" in shown


def test_what_was_refused_is_told_with_who_tried(changed: Agent) -> None:
    def refused() -> list[dict]:
        return lines(changed.cplane("audit", "--refused", "-o", "json").stdout)

    asking.until(lambda: len(refused()) >= 2, "the refusals are written")
    *_, bad, missing = refused()
    assert (bad["summary"], bad["refused"]["code"]) == ("apply policies", "policy.invalid")
    assert (missing["object"], missing["refused"]["code"]) == (
        "policy CiliumNetworkPolicy/demo/nobody",
        "policy.not_found",
    )
    assert "REFUSED delete policies" in changed.cplane("audit", "--last", "1").stdout


def test_csv_is_read_by_others(changed: Agent) -> None:
    rows = list(csv.DictReader(io.StringIO(changed.cplane("audit", "--kind", "policy", "-o", "csv").stdout)))
    told = [row for row in rows if row["object"] == WEB and row["position"]]
    assert json.loads(told[-1]["after"])["metadata"]["name"] == "web"
    assert told[-1]["before"] == told[-2]["after"]


def test_going_back_is_one_more_change_and_can_be_undone(changed: Agent) -> None:
    def port() -> str:
        held = json.loads(changed.cplane("policy", "get", "-n", "demo", "web", "-o", "json").stdout)
        return str(held["spec"]["ingress"][0]["toPorts"][0]["ports"][0]["port"])

    *_, first, second = (
        one for one in lines(changed.cplane("audit", "--object", WEB, "-o", "json").stdout) if one["type"]
    )
    before = changed.ask("status")["head"]
    tried = changed.cplane("rollback", "--to", str(first["position"]), "--dry-run")
    assert tried.returncode == 0, tried.stderr
    assert "would go back" in tried.stdout
    assert changed.ask("status")["head"] == before
    back = changed.cplane("rollback", "--to", str(first["position"]), "--only", "policies", "--wait")
    assert back.returncode == 0, back.stderr
    assert port() == "80"
    told = lines(changed.cplane("audit", "--object", WEB, "--last", "1", "-o", "json").stdout)
    assert told[-1]["cause"] == f"rollback to {first['position']}"
    again = changed.cplane("rollback", "--to", str(second["position"]), "--only", "policies")
    assert again.returncode == 0, again.stderr
    assert port() == "443"
    nothing = changed.cplane("rollback", "--to", "head")
    assert "nothing to change" in nothing.stdout
    assert changed.cplane("log", "verify").returncode == 0


def test_wrong_questions_say_what_is_right(changed: Agent) -> None:
    for arguments, code, said in (
        (("audit", "--kind", "pods"), 1, "policy, endpoint, identity"),
        (("audit", "--since", "2099-01-01T00:00:00Z"), 1, "still to come"),
        (("rollback", "--to", "1", "--only", "pods"), 1, "policies, options, endpoints"),
        (("rollback", "--to", "99999999"), 1, "not there yet"),
        (("rollback", "--to", "1", "--only", ""), 2, "--only names nothing: leave it out for everything"),
        (("audit", "--since", ""), 2, "it is empty: name a moment, or leave the option out"),
        (("audit", "--object", "demo/web"), 1, "write policy KIND/NAMESPACE/NAME"),
        (("audit", "--since", "3", "--until", "2"), 1, "2 is before 3: give them the other way round"),
        (("rollback", "--to", "1", "--log", "x.db"), 2, "--dry-run"),
        (("audit", "--log", "nobody.db"), 1, "no such file"),
    ):
        done = changed.cplane(*arguments, check=False)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
