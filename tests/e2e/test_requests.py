"""Requests of layer 7 between pods: what policies let pass, what they refuse, and what becomes of open connections."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.pods import Pod
from tests.support.site import policy, site
from tests.support.web import Web, origin

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
CLIENT = "fromEndpoints: [{matchLabels: {app: client}}]"
PUBLIC = """
- fromEndpoints: [{matchLabels: {app: client}}]
  toPorts:
  - ports: [{port: "80", protocol: TCP}]
    rules: {http: [{method: GET, path: "/public/.*"}]}
"""
TOKEN = """
- fromEndpoints: [{matchLabels: {app: client}}]
  toPorts:
  - ports: [{port: "80", protocol: TCP}]
    rules: {http: [{headers: ["X-Token: [0-9]+"]}]}
"""


def ingress(rules: str, name: str = "api") -> str:
    return policy(name, "server", "ingress:" + rules)


def egress(rules: str, name: str = "out") -> str:
    return policy(name, "client", "egress:" + rules.replace("from", "to").replace("app: client", "app: server"))


@pytest.fixture(scope="module")
def web(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with site(tmp_path_factory.mktemp("site"), programs, ("client", "other")) as made:
        yield Web(made)


@pytest.fixture
def requests(web: Web) -> Iterator[Web]:
    yield web
    web.site.lift()


@FAMILIES
@pytest.mark.parametrize("direction", [ingress, egress])
def test_only_what_the_rules_say_passes(requests: Web, family: int, direction: Callable[[str], str]) -> None:
    requests.site.apply(direction(PUBLIC))
    assert requests.status("/public/a", family=family) == "200"
    assert requests.status("/private", family=family) == "403"
    assert requests.status("/public/a", "-X", "POST", "-d", "x", family=family) == "403"
    assert requests.curl("/private", family=family) == "Access denied\r\n"
    told = json.loads(requests.curl("/public/a", family=family))
    assert told["peer"] in {requests.client.address(family), f"::ffff:{requests.client.ipv4}"}


@FAMILIES
def test_a_header_must_be_there_and_be_a_number(requests: Web, family: int) -> None:
    requests.site.apply(ingress(TOKEN))
    assert requests.status("/", "-H", "X-Token: 123", family=family) == "200"
    assert requests.status("/", "-H", "X-Token: abc", family=family) == "403"
    assert requests.status("/", family=family) == "403"


@FAMILIES
def test_both_ends_have_a_proxy(requests: Web, family: int) -> None:
    requests.site.apply(ingress(PUBLIC), egress(PUBLIC.replace("/public/.*", "/public/[a-c]")))
    assert requests.status("/public/a", family=family) == "200"
    assert requests.status("/public/z", family=family) == "403"
    requests.site.apply(ingress(PUBLIC.replace("/public/.*", "/public/z")))
    assert requests.status("/public/a", family=family) == "403"


@FAMILIES
def test_others_are_not_let_in_and_what_is_allowed_whole_is_not_read(requests: Web, family: int) -> None:
    requests.site.apply(ingress(PUBLIC))
    other = requests.site["other"]
    assert requests.status("/public/a", "-m", "1", family=family, client=other) == "000"
    requests.site.apply(ingress("\n- fromEndpoints: [{matchLabels: {app: other}}]", name="whole"))
    assert requests.status("/private", family=family, client=other) == "200"
    assert requests.status("/private", family=family) == "403"


@FAMILIES
def test_the_world_and_the_node_come_through_a_proxy_too(requests: Web, family: int) -> None:
    requests.site.apply(ingress(PUBLIC.replace(CLIENT, "fromEntities: [world]")))
    assert requests.status("/public/a", family=family, client=requests.site.world) == "200"
    assert requests.status("/private", family=family, client=requests.site.world) == "403"
    assert requests.status("/private", family=family, client=requests.site.host) == "200"


@FAMILIES
def test_what_a_pod_asks_of_the_world_is_read(requests: Web, family: int) -> None:
    world = requests.site.world
    with origin(world.netns, 8000):
        rule = PUBLIC.replace(CLIENT, "toEntities: [world]")
        requests.site.apply(policy("out", "client", "egress:" + rule.replace('"80"', '"8000"')))
        found = [requests.status(path, family=family, server=world, port=8000) for path in ("/public/a", "/private")]
        assert found == ["200", "403"]


@FAMILIES
def test_the_status_has_a_line_of_proxies(requests: Web, family: int) -> None:
    requests.site.apply(ingress(PUBLIC))
    with closing(requests.talk(family)) as talk:
        assert talk("/public/a") == "200"
        told = json.loads(requests.site.agent.cplane("status", "-o", "json").stdout)["proxies"]
    envoy, dns, kafka = told
    assert envoy == {
        "kind": "envoy",
        "pid": requests.site.agent.proxies()["envoy"],
        "connected": True,
        "redirects": 1,
        "failing": 0,
        "connections": 1,
    }
    assert [(one["kind"], one["pid"], one["redirects"]) for one in (dns, kafka)] == [("dns", 0, 0), ("kafka", 0, 0)]
    line = requests.site.agent.cplane("status").stdout
    assert re.search(r"proxies: +envoy runs \(pid \d+, 1 redirect, \d+ connections?\), dns absent, kafka absent", line)


@FAMILIES
def test_a_change_of_rules_reaches_an_open_connection(requests: Web, family: int) -> None:
    requests.site.apply(ingress(PUBLIC))
    with closing(requests.talk(family)) as talk:
        assert (talk("/public/a"), talk("/private")) == ("200", "403")
        requests.site.apply(ingress(PUBLIC.replace("/public/.*", "/private")))
        assert (talk("/public/a"), talk("/private")) == ("403", "200")
        requests.site.apply(ingress(PUBLIC, name="another"))
        assert (talk("/public/a"), talk("/private"), talk("/other")) == ("200", "200", "403")


@FAMILIES
def test_an_open_connection_does_not_go_on_past_a_proxy_that_is_asked_for_now(requests: Web, family: int) -> None:
    with closing(requests.talk(family)) as talk:
        assert talk("/private") == "200"
        requests.site.apply(ingress(PUBLIC))
        with pytest.raises(ConnectionResetError):
            talk("/private")
    assert requests.status("/public/a", family=family) == "200"


@FAMILIES
def test_when_nobody_asks_for_a_proxy_any_more_clients_go_on(requests: Web, family: int) -> None:
    requests.site.apply(ingress(PUBLIC))
    assert requests.status("/private", family=family) == "403"
    requests.site.lift()
    assert requests.status("/private", family=family) == "200"


def test_a_proxy_that_dies_comes_again_and_lets_nothing_pass_meanwhile(requests: Web) -> None:
    requests.site.apply(ingress(PUBLIC))
    assert requests.status("/private") == "403"
    before = requests.site.agent.proxies()["envoy"]
    assert "not enforced" not in requests.site.agent.cplane("policy", "status").stdout
    requests.site.agent.end_proxy("envoy")
    found = []
    began = time.monotonic()
    while "200" not in found and time.monotonic() < began + 20:
        found.append(requests.status("/private", "-m", "1"))
        found.append(requests.status("/public/a", "-m", "1"))
    assert "200" in found and set(found[::2]) <= {"403", "000", "503"}
    assert requests.site.agent.proxies()["envoy"] != before


def test_without_the_agent_requests_are_judged_and_a_new_agent_finds_the_proxy(requests: Web) -> None:
    requests.site.apply(ingress(PUBLIC))
    assert requests.status("/private") == "403"
    agent = requests.site.agent
    proxy = agent.proxies()["envoy"]
    talk = requests.talk(4)
    agent.kill()
    assert (requests.status("/public/a"), requests.status("/private")) == ("200", "403")
    agent.start()
    assert talk("/public/a") == "200", "an open connection outlives the agent"
    talk.close()
    assert (requests.status("/public/a"), requests.status("/private")) == ("200", "403")
    requests.site.apply(ingress(PUBLIC.replace("/public/.*", "/private")))
    assert (requests.status("/public/a"), requests.status("/private")) == ("403", "200")
    assert agent.proxies()["envoy"] == proxy


@FAMILIES
def test_who_connects_to_a_proxy_itself_is_turned_away_at_once(requests: Web, family: int) -> None:
    requests.site.apply(ingress(PUBLIC))
    listed = requests.site.agent.cplane("bpf", "policy", "list").stdout
    port = next(int(one) for one in listed.split() if re.fullmatch(r"1[0-9]{4}", one))
    itself = Pod("itself", requests.site.node, {}, "127.0.0.1", "::1")
    assert requests.status("/public/a", "-m", "3", family=family, client=itself, server=itself, port=port) == "000"
    tracked = requests.site.node.run(lambda: Path("/proc/thread-self/net/sockstat").read_text())
    assert int(re.search(r"TCP: inuse (\d+)", tracked)[1]) < 100
    assert requests.status("/public/a", family=family) == "200"
