"""Names that pods may ask for, and addresses that they may speak with because they were told them."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.site import WORLD4, WORLD6, Site, policy, site

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
NAMES = """
egress:
- toEndpoints: [{matchLabels: {app: dns}}]
  toPorts:
  - ports: [{port: "53", protocol: ANY}]
    rules: {dns: [{matchPattern: "*.example"}]}
- toFQDNs: [{matchName: world.example}]
"""


class Names:
    """A client that may ask, and a DNS server."""

    def __init__(self, made: Site) -> None:
        self.site, self.client = made, made["client"]

    def dig(self, name: str, *arguments: str, family: int = 4) -> str:
        """What dig says."""
        server = self.site["dns"].address(family)
        command = ["dig", f"@{server}", "+tries=1", "+time=2", name, *arguments]
        enter = ["nsenter", f"--net={self.client.netns.path}", "--"]
        return subprocess.run([*enter, *command], capture_output=True, text=True, check=False).stdout

    def addresses(self, name: str, *arguments: str, family: int = 4) -> list[str]:
        """The addresses in the answer."""
        return self.dig(name, "A" if family == 4 else "AAAA", "+short", *arguments, family=family).split()

    def reaches_world(self, family: int) -> bool:
        """Whether the client may speak with the world."""
        return self.client.reach(WORLD4 if family == 4 else WORLD6, timeout_s=1)


@pytest.fixture(scope="module")
def names(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Names]:
    with site(tmp_path_factory.mktemp("site"), programs, ("client",)) as made:
        made.serve()
        made.pods.add("dns", serve=False)
        made["dns"].serve_names()
        yield Names(made)


@pytest.fixture
def asking(names: Names) -> Iterator[Names]:
    yield names
    names.site.lift()
    names.site.agent.cplane("fqdn", "cache", "clean", "--wait")


@FAMILIES
def test_a_name_that_is_told_can_be_reached_at_once_and_no_other(asking: Names, family: int) -> None:
    asking.site.apply(policy("names", "client", NAMES))
    assert not asking.reaches_world(family)
    assert asking.addresses("world.example", family=family) == [WORLD4 if family == 4 else WORLD6]
    assert asking.reaches_world(family)
    assert not asking.client.reach(asking.site["dns"].address(family), timeout_s=0.5, port=80)


@FAMILIES
def test_names_that_may_not_be_asked_for_are_refused(asking: Names, family: int) -> None:
    asking.site.apply(policy("names", "client", NAMES))
    assert "status: NOERROR" in asking.dig("a.example", family=family)
    assert "status: REFUSED" in asking.dig("a.elsewhere", family=family)
    assert "status: REFUSED" in asking.dig("a.elsewhere", "+tcp", family=family)
    assert asking.addresses("a.example", "+tcp", family=family)


@FAMILIES
def test_an_answer_that_is_too_long_for_one_packet_arrives(asking: Names, family: int) -> None:
    """Whatever the client says it takes: the later pieces of a datagram have no ports by which a proxy had them."""
    asking.site.apply(policy("names", "client", NAMES))
    for size in (512, 1232, 4096, 65535):
        found = asking.dig("many.example", f"+bufsize={size}", family=family)
        assert found.count("198.51.100.") == 100, size


def test_what_was_asked_is_seen_and_the_address_has_its_name(asking: Names) -> None:
    asking.site.apply(policy("names", "client", NAMES))
    asking.addresses("world.example")
    asking.dig("a.elsewhere")
    assert asking.reaches_world(4)
    time.sleep(0.3)
    flows = asking.site.agent.flows("--type", "l7", "--protocol", "dns", "--last", "50")
    said = {(one["verdict"], one["l7"]["type"], one["l7"]["dns"]["query"]) for one in flows}
    assert {("FORWARDED", "REQUEST", "world.example."), ("DROPPED", "REQUEST", "a.elsewhere.")} <= said
    assert ("FORWARDED", "RESPONSE", "world.example.") in said
    named = asking.site.agent.flows("--to-fqdn", "world.example", "--last", "5")
    assert named and all(one["destination_names"] == ["world.example"] for one in named)


def test_the_proxy_answers_without_the_agent_and_after_it_was_killed(asking: Names) -> None:
    asking.site.apply(policy("names", "client", NAMES))
    assert asking.addresses("a.example")
    agent = asking.site.agent
    proxy = agent.proxies()["dns"]
    agent.kill()
    assert asking.addresses("a.example") == ["192.0.2.1"]
    assert "status: REFUSED" in asking.dig("a.elsewhere")
    agent.start()
    assert agent.proxies()["dns"] == proxy
    assert asking.addresses("world.example") == [WORLD4]
    assert asking.reaches_world(4)
    agent.end_proxy("dns")
    end = time.monotonic() + 10
    while not asking.addresses("a.example") and time.monotonic() < end:
        assert "NOERROR" not in asking.dig("a.elsewhere")
    assert asking.addresses("a.example") == ["192.0.2.1"]
    assert "status: REFUSED" in asking.dig("a.elsewhere")
