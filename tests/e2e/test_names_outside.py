"""Rules by name about the world: a pod asks a real server outside, and reaches what it was told, and nothing else."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cplane.proxy.process import read_identity
from tests.support.dnsnet import eventually
from tests.support.pods import Pod
from tests.support.site import WORLD4, WORLD6, Site, policy, site
from tests.support.tree import ROOT

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

OTHER, BRIEF = "198.51.100.3", "198.51.100.4"
RULES = """
egress:
- toEntities: [world]
  toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchPattern: "*.example"}]}}]
- toFQDNs: [{matchName: world.example}, {matchName: brief.example}]
  toPorts: [{ports: [{port: "8080"}]}]
"""


@pytest.fixture
def named(shared: Site) -> Site:
    """The same for all tests, and nothing has been told."""
    shared.agent.cplane("fqdn", "cache", "clean", "--wait")
    return shared


@pytest.fixture(scope="module")
def shared(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A pod that may ask the world for names under `example`, and reach two of them."""
    waiting = ("--dns-max-delay-ms", "1000")  # on a busy machine, too, the kernel has an address before the client
    with site(tmp_path_factory.mktemp("names") / "site", programs, ["client", "free"], options=waiting) as made:
        made.serve()
        for address in (OTHER, BRIEF):
            made.world.netns.ip("address", "add", f"{address}/24", "dev", "eth0")
        enter = ["nsenter", f"--net={made.world.netns.path}", "--"]
        command = [*enter, sys.executable, "-m", "tests.support.dnsserver", WORLD4, WORLD6]
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"serving\n"
            made.apply(policy("names", "client", RULES))
            eventually(lambda: "REFUSED" in dig(made["client"], "evil.test"))
            yield made
        finally:
            server.kill()
            server.wait()
            if server.stdout is not None:
                server.stdout.close()


def dig(pod: Pod, *arguments: str, server: str = WORLD4) -> str:
    """What dig says in the pod."""
    command = ["nsenter", f"--net={pod.netns.path}", "--", "dig", f"@{server}", "+tries=1", "+time=2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


@pytest.mark.parametrize("server", [WORLD4, WORLD6], ids=["v4", "v6"])
def test_a_pod_reaches_what_it_was_told_at_the_first_try_and_nothing_else(named: Site, server: str) -> None:
    client = named["client"]
    assert not client.reach(WORLD4, timeout_s=0.5)
    assert dig(client, "world.example", "+short", server=server) == WORLD4
    assert client.reach(WORLD4, timeout_s=0.9), "not even one packet is lost"
    assert not client.reach(WORLD6, timeout_s=0.5)
    assert dig(client, "world.example", "AAAA", "+tcp", "+short", server=server) == WORLD6
    assert client.reach(WORLD6, timeout_s=0.9)
    assert dig(client, "other.example", "+short", server=server) == OTHER
    assert not client.reach(OTHER, timeout_s=0.5)
    assert "REFUSED" in dig(client, "evil.test", server=server)
    assert "REFUSED" in dig(client, "evil.test", "+tcp", server=server)
    assert "NXDOMAIN" in dig(named["free"], "evil.test", server=server), "who has no policy asks as ever"


def test_what_was_told_is_shown_and_why_says_what_was_not(named: Site) -> None:
    client, agent = named["client"], named.agent
    assert dig(client, "world.example", "+short")
    listed = agent.cplane("fqdn", "cache", "list").stdout
    assert [line.split()[2] for line in listed.splitlines()[1:]] == ["world.example."]
    assert "world.example" in agent.cplane("fqdn", "names").stdout
    why = agent.cplane("why", "--from", "demo/client", "--to", "198.51.100.9", "--port", "8080/TCP").stdout
    assert "198.51.100.9 was never in an answer to demo/client" in why
    assert not client.reach(OTHER, timeout_s=0.5)


def test_a_name_that_expires_ends_no_open_connection(named: Site) -> None:
    client = named["client"]
    assert dig(client, "brief.example", "+short") == BRIEF
    open_one = client.connect(BRIEF)
    assert open_one.goes_on()
    time.sleep(8)  # a lifetime of a second, and more than one look at what is over
    assert open_one.goes_on()
    client.connections.pop().close()
    # Whoever tries to connect meanwhile opens a connection.
    eventually(lambda: "brief" not in named.agent.cplane("fqdn", "cache", "list").stdout, timeout_s=60)
    assert not client.reach(BRIEF, timeout_s=0.5)
    assert dig(client, "brief.example", "+short") == BRIEF
    assert client.reach(BRIEF, timeout_s=0.9)


def test_names_are_answered_and_denied_while_the_agent_is_away_and_learned_when_it_is_back(named: Site) -> None:
    client = named["client"]
    assert dig(client, "other.example", "+short") == OTHER
    named.agent.kill()
    assert dig(client, "world.example", "+short") == WORLD4
    assert "REFUSED" in dig(client, "evil.test")
    named.agent.start()
    eventually(lambda: client.reach(WORLD4, timeout_s=0.5))
    assert not client.reach(OTHER, timeout_s=0.5)
    assert "REFUSED" in dig(client, "evil.test")


def test_a_proxy_that_is_killed_is_back_within_a_second_and_nothing_passes_meanwhile(named: Site) -> None:
    client = named["client"]
    assert dig(client, "a.example", "+short")
    found = read_identity(named.agent.run_dir / "proxy" / "dns.pid")
    assert found is not None
    os.kill(found.pid, signal.SIGKILL)
    began = time.monotonic()

    def answered() -> bool:
        said = dig(client, "evil.test", "+time=1")
        assert "NXDOMAIN" not in said
        return "REFUSED" in said

    eventually(answered)
    assert time.monotonic() - began < 3


def test_getaddrinfo_and_a_connection_work_as_with_no_policy(named: Site) -> None:
    client = named["client"]
    folder = Path("/etc/netns") / client.netns.name
    folder.mkdir(parents=True)
    try:
        (folder / "resolv.conf").write_text(f"nameserver {WORLD4}\noptions timeout:2\n")
        script = "import socket; s = socket.create_connection(('world.example', 8080), 5); print(s.getpeername()[0])"
        command = ["ip", "netns", "exec", client.netns.name, sys.executable, "-c", script]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.stdout.strip() in {WORLD4, WORLD6}, found.stderr
    finally:
        (folder / "resolv.conf").unlink()
        folder.rmdir()


def test_what_was_forgotten_is_told_again_at_the_next_answer(named: Site) -> None:
    client = named["client"]
    for _ in range(3):
        assert not client.reach(WORLD4, timeout_s=0.4)
        assert dig(client, "world.example", "+short") == WORLD4
        assert client.reach(WORLD4, timeout_s=0.9)
        named.agent.cplane("fqdn", "cache", "clean", "-p", "world.*", "--wait")


def test_flows_to_an_address_show_the_names_that_it_was_told_for(named: Site) -> None:
    client = named["client"]
    assert dig(client, "world.example", "+short") == WORLD4
    assert client.reach(WORLD4)
    flows = named.agent.flows("--last", "50", "--to-ip", WORLD4, "--to-port", "8080")
    assert flows[-1]["destination_names"] == ["world.example"]
