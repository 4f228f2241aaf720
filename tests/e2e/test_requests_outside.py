"""Requests of clients outside that come by a service: the proxy at the backend judges them, and answers as the service.

On the node of the backend, and on a node behind the one that is asked, which sees the client, or the node in its place.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import asking
from tests.support.asking import until
from tests.support.netns import Namespace
from tests.support.site import CABLE, NODE4, NODE6, WORLD4, WORLD6, Site, policy, site
from tests.support.sites import BEHIND, passing, two_nodes
from tests.support.web import origin
from tests.support.wire import sum_in_software

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

PORT, NODE_PORT = 8080, 30080
VIP = {4: "203.0.113.80", 6: "2001:db8:80::80"}
NODE, CLIENT = {4: NODE4, 6: NODE6}, {4: WORLD4, 6: WORLD6}
OTHER = {4: "198.51.100.3", 6: "2001:db8::3"}
ANY = {4: "0.0.0.0", 6: "::"}
families = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])


@pytest.fixture(scope="module")
def place(with_lb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A node with a pod that serves, and two clients outside."""
    with site(tmp_path_factory.mktemp("site"), with_lb, options=("--lb-devices", CABLE)) as made:
        for family, bits in ((4, 24), (6, 64)):
            nodad = ("nodad",) if family == 6 else ()
            other = f"{OTHER[family]}/{bits}"
            made.world.netns.ip("address", "add", other, "dev", "eth0", "preferred_lft", "0", *nodad)
        made.pods.add("one", serve=False)
        with origin(made["one"].netns, PORT):
            yield made


@pytest.fixture(scope="module", params=["opt", "ipip", "geneve"])
def nodes(
    with_lb: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[Site, Site]]:
    # what a proxy answers leaves as the service's by devices that serve clients
    with two_nodes(with_lb, tmp_path_factory.mktemp, request.param, behind="next0 out0") as (front, back):
        back.pods.add("one", serve=False)
        with origin(back["one"].netns, PORT):
            yield front, back


@pytest.fixture(scope="module", params=["opt", "ipip", "geneve"])
def fast(
    with_lb: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[Site, Site]]:
    """The same nodes, with XDP in front of both."""
    options = ("--lb-acceleration", "native")
    nodes = two_nodes(with_lb, tmp_path_factory.mktemp, request.param, behind="next0 out0", options=options)
    with nodes as (front, back), passing(front.world.netns, "eth0"):
        back.node.run(lambda: sum_in_software("next0"))
        for one in (front, back):
            assert [device.xdp for device in asking.status(one.agent).served_devices] == [True, True]
        until(lambda: not any(one.detail for one in asking.status(front.agent).served_devices), "XDP sends", 30.0)
        back.pods.add("one", serve=False)
        with origin(back["one"].netns, PORT):
            yield front, back


def rules(*peers: str) -> str:
    prefixes = [f"{one}/{128 if ':' in one else 32}" for one in peers]
    return policy(
        "web",
        "one",
        f"""
ingress:
- fromCIDR: {json.dumps(prefixes)}
  toPorts:
  - ports: [{{port: "{PORT}", protocol: TCP}}]
    rules: {{http: [{{method: GET, path: "/public/.*"}}]}}
""",
    )


def serve(asked: Site, family: int, address: str, *more: str, sites: tuple[Site, ...] = ()) -> None:
    shown = (f"[{one}]" if family == 6 else one for one in (VIP[family], ANY[family], address))
    vip, everywhere, backend = shown
    frontends = (f"--frontend={vip}:80/TCP=LoadBalancer", f"--frontend={everywhere}:{NODE_PORT}/TCP=NodePort")
    for one in (asked, *sites):
        command = ("service", "upsert", f"shop/v{family}", *frontends, f"--backend={backend}:{PORT}", *more, "--wait")
        one.agent.cplane(*command)


def curl(client: Namespace, address: str, port: int, path: str, *arguments: str) -> tuple[str, str]:
    """Status and body of an answer; 000: there is none."""
    host = f"[{address}]" if ":" in address else address
    command = ["curl", "-s", "-g", "-m", "3", "-w", "\n%{http_code}", *arguments, f"http://{host}:{port}{path}"]
    enter = ["nsenter", f"--net={client.path}", "--"]
    done = subprocess.run([*enter, *command], capture_output=True, check=False)
    body, _, status = done.stdout.decode().rpartition("\n")
    return status, body


def seen(where: Site, path: str) -> set[tuple[str, str]]:
    """Addresses from which the path was asked for, with what became of it."""
    flows = where.agent.flows("--type", "l7", "--http-path", path, "--last", "50")
    return {(one["IP"]["source"], one["verdict"]) for one in flows if one["l7"]["type"] == "REQUEST"}


@families
def test_a_service_on_the_node_is_judged_by_the_clients_own_requests(place: Site, family: int) -> None:
    client = CLIENT[family]
    serve(place, family, place["one"].address(family))
    place.apply(rules(client))
    try:
        for address, port in ((VIP[family], 80), (NODE[family], NODE_PORT)):
            status, body = curl(place.world.netns, address, port, f"/public/v{family}/{port}")
            assert (status, json.loads(body)["peer"].removeprefix("::ffff:")) == ("200", client)
            status, body = curl(place.world.netns, address, port, f"/private/v{family}/{port}")
            assert (status, body) == ("403", "Access denied\r\n")
            other = ("--interface", OTHER[family])
            assert curl(place.world.netns, address, port, "/public/a", *other)[0] == "000"
            until(lambda port=port: seen(place, f"/private/v{family}/{port}") == {(client, "DROPPED")}, "it is told")
            assert seen(place, f"/public/v{family}/{port}") == {(client, "FORWARDED")}
    finally:
        place.lift()


@families
@pytest.mark.parametrize("forwarding", ["snat", "dsr"])
def test_a_service_of_another_node_is_judged_at_the_backend(
    nodes: tuple[Site, Site], family: int, forwarding: str
) -> None:
    """By the client's address where it is seen, by that of the node where not; and never unread."""
    judged_behind(*nodes, family, forwarding)


@families
@pytest.mark.parametrize("forwarding", ["snat", "dsr"])
def test_what_xdp_forwards_is_judged_at_the_backend(fast: tuple[Site, Site], family: int, forwarding: str) -> None:
    """Also where the node in front has nothing but XDP: its agent is dead, and its programs on tcx are away."""
    front, back = fast
    judged_behind(front, back, family, forwarding)
    front.agent.kill()
    for name in ("from_netdev", "to_netdev"):
        for link in (front.agent.bpf_root / "links").glob(f"*_{name}"):
            link.unlink()
    shown = CLIENT[family] if forwarding == "dsr" else BEHIND[family]
    back.apply(rules(shown))
    try:
        for address, port in ((VIP[family], 80), (NODE[family], NODE_PORT)):
            paths = ("/public/a", "/private")
            assert [curl(front.world.netns, address, port, path)[0] for path in paths] == ["200", "403"]
    finally:
        back.lift()
        front.agent.start()


def judged_behind(front: Site, back: Site, family: int, forwarding: str) -> None:
    """A service of the node in front, whose backend is behind it, is read there."""
    serve(front, family, back["one"].address(family), f"--forwarding={forwarding}", sites=(back,))
    shown, hidden = BEHIND[family], CLIENT[family]
    if forwarding == "dsr":
        shown, hidden = hidden, shown
    world = front.world.netns
    try:
        for address, port in ((VIP[family], 80), (NODE[family], NODE_PORT)):
            back.apply(rules(shown))
            status, body = curl(world, address, port, f"/public/v{family}/{forwarding}")
            assert (status, json.loads(body)["peer"].removeprefix("::ffff:")) == ("200", shown)
            status, body = curl(world, address, port, f"/private/v{family}/{forwarding}")
            assert (status, body) == ("403", "Access denied\r\n")
            until(lambda: (shown, "DROPPED") in seen(back, f"/private/v{family}/{forwarding}"), "it is told")
            back.apply(rules(hidden))
            assert curl(world, address, port, "/public/a")[0] == "000"
    finally:
        back.lift()
