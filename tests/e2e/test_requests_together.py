"""Requests where rules meet: of two protocols at one port, and of a range of ports that anyone may come to in part."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.pods import Pod
from tests.support.site import policy, site
from tests.support.web import Talk, Web, origin

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
GRPC = Path(__file__).parents[1] / "support/grpc_origin.py"
WIDE, CALLS = 85, 90
CLIENT = "fromEndpoints: [{matchLabels: {app: client}}]"
FETCH = bytes.fromhex("00000017 0003 0000 00000001 0006 636c69656e74 00000001 0001 74")


def rule(rules: str, ports: str = '{port: "80", protocol: TCP}', peer: str = CLIENT) -> str:
    """An element of `ingress`; rules of layer 7 where some are given."""
    return f"\n- {peer}\n  toPorts:\n  - ports: [{ports}]\n" + (f"    rules: {rules}\n" if rules else "")


HTTP = '{http: [{path: "/public/.*"}, {path: "/shop.Orders/.*"}]}'
KAFKA = "{kafka: [{role: consume, topic: t}]}"
OTHERS = {"kafka": KAFKA, "l7proto": "{l7proto: zebra, l7: [{}]}"}
RANGE = '{port: "80", endPort: 99, protocol: TCP}'
ANYONE = '\n- toPorts:\n  - ports: [{port: "%d", protocol: TCP}]\n'


def ingress(*rules: str, name: str = "api") -> str:
    return policy(name, "server", "ingress:" + "".join(rules))


@pytest.fixture(scope="module")
def web(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with site(tmp_path_factory.mktemp("site"), programs, ("client", "other")) as made:
        found = Web(made)
        with origin(found.server.netns, WIDE), served(found.server, CALLS):
            yield found


@contextmanager
def served(pod: Pod, port: int) -> Iterator[None]:
    """A gRPC server in the pod, as long as this lasts."""
    command = ["nsenter", f"--net={pod.netns.path}", "--", sys.executable, str(GRPC), "serve", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as made:
        assert made.stdout is not None
        try:
            assert made.stdout.readline() == "ready\n"
            yield
        finally:
            made.kill()


def call(web: Web, method: str, family: int, *, client: Pod | None = None) -> str:
    """The code of a call of the gRPC server."""
    address = web.server.address(family)
    target = f"[{address}]:{CALLS}" if family == 6 else f"{address}:{CALLS}"
    command = [sys.executable, str(GRPC), "call", target, method]
    enter = ["nsenter", f"--net={(client or web.client).netns.path}", "--"]
    return subprocess.run([*enter, *command], capture_output=True, text=True, check=False).stdout.partition("|")[0]


@pytest.fixture
def requests(web: Web) -> Iterator[Web]:
    yield web
    web.site.lift()


def talk(web: Web, family: int, port: int) -> Talk:
    return Talk(web.client.netns.run(lambda: socket.create_connection((web.server.address(family), port), 5)))


def passes(connection: Talk, path: str) -> bool:
    """Whether the server answers; the connection may have ended."""
    try:
        return connection(path) == "200"
    except (OSError, IndexError):
        return False


def asked_by_kafka(web: Web, family: int) -> bytes:
    """What comes back for bytes that a broker would understand; nothing: the connection is ended."""

    def ask() -> bytes:
        with socket.create_connection((web.server.address(family), 80), 5) as made:
            made.settimeout(5)
            try:
                made.sendall(FETCH)
                return made.recv(4096)
            except ConnectionError:
                return b""

    return web.client.netns.run(ask)


@FAMILIES
@pytest.mark.parametrize("other", OTHERS)
def test_of_two_protocols_at_a_port_that_of_the_proxy_passes(requests: Web, family: int, other: str) -> None:
    requests.site.apply(ingress(rule(HTTP)))
    with closing(talk(requests, family, 80)) as connection:
        assert (connection("/public/a"), connection("/private")) == ("200", "403")
        requests.site.apply(ingress(rule(HTTP), rule(OTHERS[other])))
        assert (connection("/public/a"), connection("/private")) == ("200", "403")
        assert requests.status("/public/a", family=family) == "200"
        assert requests.status("/private", family=family) == "403"
        assert not asked_by_kafka(requests, family).startswith(b"HTTP/1.1 200")
        requests.site.apply(ingress(rule(OTHERS[other]), name="more"), ingress(rule(HTTP)))
        assert (connection("/public/a"), connection("/private")) == ("200", "403")
    assert requests.status("/public/a", "-m", "2", family=family, client=requests.site["other"]) == "000"


@FAMILIES
@pytest.mark.parametrize("other", OTHERS)
def test_without_the_rules_of_one_protocol_its_requests_pass_no_more(requests: Web, family: int, other: str) -> None:
    requests.site.apply(ingress(rule(HTTP), rule(OTHERS[other])))
    with closing(talk(requests, family, 80)) as connection:
        assert connection("/public/a") == "200"
        requests.site.apply(ingress(rule(OTHERS[other])))
        assert requests.status("/public/a", "-m", "2", family=family) in {"000", "403"}
        assert not passes(connection, "/public/a")
    requests.site.apply(ingress(rule(HTTP), rule(OTHERS[other])))
    assert requests.status("/public/a", family=family) == "200"


@FAMILIES
def test_what_anyone_may_at_a_port_of_a_range_holds_for_who_is_read_there(requests: Web, family: int) -> None:
    other = requests.site["other"]
    narrow, wide = ingress(rule(HTTP, RANGE)), ingress(rule(HTTP, RANGE), ANYONE % WIDE, ANYONE % CALLS)
    requests.site.apply(narrow)
    with closing(talk(requests, family, WIDE)) as there, closing(talk(requests, family, 80)) as aside:
        assert (there("/public/a"), there("/private"), aside("/private")) == ("200", "403", "403")
        assert call(requests, "/shop.Orders/Get", family) == "OK"
        assert call(requests, "/shop.Admin/Get", family) == "PERMISSION_DENIED"
        requests.site.apply(wide)
        assert requests.status("/private", family=family, port=WIDE) == "200"
        assert requests.status("/private", family=family) == "403"
        assert call(requests, "/shop.Admin/Get", family) == "OK"
        assert (aside("/public/a"), aside("/private")) == ("200", "403")
        assert requests.status("/private", family=family, port=WIDE, client=other) == "200"
        assert call(requests, "/shop.Admin/Get", family, client=other) == "OK"
        assert requests.status("/private", "-m", "2", family=family, client=other) == "000"
    with closing(talk(requests, family, WIDE)) as there:
        assert there("/private") == "200"
        requests.site.apply(narrow)
        assert requests.status("/private", family=family, port=WIDE) == "403"
        assert call(requests, "/shop.Admin/Get", family) == "PERMISSION_DENIED"
        assert not passes(there, "/private")
    assert requests.status("/private", "-m", "2", family=family, port=WIDE, client=other) == "000"


def test_without_the_agent_both_are_judged_as_before_and_a_new_agent_changes_nothing(requests: Web) -> None:
    requests.site.apply(ingress(rule(HTTP, RANGE), rule(KAFKA), ANYONE % WIDE))
    agent = requests.site.agent
    with closing(talk(requests, 4, 80)) as read, closing(talk(requests, 6, WIDE)) as free:

        def found() -> list[str]:
            asked = [read("/public/a"), read("/private"), free("/private")]
            for family in (4, 6):
                asked += [requests.status("/private", family=family, port=port) for port in (80, WIDE)]
                asked += [requests.status("/public/a", family=family)]
                asked += [call(requests, f"/shop.{one}/Get", family) for one in ("Orders", "Admin")]
            return asked

        before = found()
        assert before == ["200", "403", "200", *["403", "200", "200", "OK", "PERMISSION_DENIED"] * 2]
        agent.kill()
        assert found() == before
        agent.start()
        assert found() == before
