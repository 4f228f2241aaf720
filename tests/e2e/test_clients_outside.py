"""Clients outside of the cluster, served by a real agent: at node ports, load balancer addresses and external ones."""

import json
import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.support import asking
from tests.support.echo import Said, asked, echo, opened, said
from tests.support.site import CABLE, NODE4, NODE6, WORLD4, WORLD6, Site, policy, site
from tests.support.sites import BEHIND, passing, two_nodes

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

TCP, UDP = "TCP", "UDP"
KINDS = {TCP: socket.SOCK_STREAM, UDP: socket.SOCK_DGRAM}
PODS = ("one", "two")
FAR = "far"  # a backend that no pod of the node is; it shares the client's end of the cable
ADDRESSES = {4: ("203.0.113.80", NODE4, WORLD4, "198.51.100.3"), 6: ("2001:db8:80::80", NODE6, WORLD6, "2001:db8::3")}
families = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
protocols = pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
algorithms = pytest.mark.parametrize("algorithm", ["random", "maglev"])


@pytest.fixture(scope="module")
def shared(with_lb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with _site(with_lb, tmp_path_factory) as made:
        yield made


@contextmanager
def _site(programs: Path, tmp_path_factory: pytest.TempPathFactory, *more: str) -> Iterator[Site]:
    """Two pods that answer, a server in the world that does, too, and a client there."""
    options = ("--lb-devices", CABLE, *more)
    with site(tmp_path_factory.mktemp("site"), programs, options=options) as made, ExitStack() as stack:
        for family, bits in ((4, 24), (6, 64)):
            more = ("nodad",) if family == 6 else ()
            far = ("address", "add", f"{ADDRESSES[family][3]}/{bits}", "dev", "eth0", "preferred_lft", "0")
            made.world.netns.ip(*far, *more)  # clients take addresses that are preferred for some time
        for name in PODS:
            made.pods.add(name, serve=False)
            stack.enter_context(echo(name, made[name].netns, (made[name].ipv4, made[name].ipv6), 8080))
        stack.enter_context(echo(FAR, made.world.netns, [ADDRESSES[family][3] for family in (4, 6)], 8080))
        yield made


@pytest.fixture
def place(shared: Site) -> Iterator[Site]:
    """No services afterwards."""
    yield shared
    lines = shared.agent.cplane("service", "list").stdout.splitlines()[1:]
    if names := dict.fromkeys("/".join(line.split()[3:5]) for line in lines):
        shared.agent.cplane("service", "delete", *names, "--wait")


def upsert(
    place: Site,
    family: int,
    protocol: str,
    *frontends: str,
    backends: tuple[str, ...] = PODS,
    more: tuple[str, ...] = (),
) -> None:
    """A service with these frontends, each `ADDRESS:PORT{}=KIND`."""
    places = [ADDRESSES[family][3] if one == FAR else place[one].address(family) for one in backends]
    brackets = "[{}]:8080" if family == 6 else "{}:8080"
    backs = [f"--backend={brackets.format(one)}" for one in places]
    fronts = [f"--frontend={one.format('/' + protocol)}" for one in frontends]
    place.agent.cplane("service", "upsert", f"shop/v{family}", *fronts, *backs, *more, "--wait")


def shown(address: str, port: int = 80, kind: str = "LoadBalancer") -> str:
    return (f"[{address}]" if ":" in address else address) + f":{port}{{}}={kind}"


def who(place: Site, address: str, port: int, protocol: str, times: int = 1) -> list[Said]:
    return [asked(place.world.netns, address, port, KINDS[protocol]) for _ in range(times)]


@families
@protocols
@algorithms
def test_who_comes_from_outside_is_served(place: Site, family: int, protocol: str, algorithm: str) -> None:
    """Pods see the client; others the node, as they could not answer the client otherwise."""
    vip, node, client, _ = ADDRESSES[family]
    any_address = "::" if family == 6 else "0.0.0.0"
    frontends = (shown(any_address, 30080, "NodePort"), shown(vip), shown(vip, 81, "ExternalIPs"))
    upsert(place, family, protocol, *frontends, backends=(*PODS, FAR), more=(f"--algorithm={algorithm}",))
    for address, port in ((node, 30080), (vip, 80), (vip, 81)):
        answers = who(place, address, port, protocol, 48)
        assert {name for name, _, _ in answers} == {*PODS, FAR}, "each of three is missed once in hundred million runs"
        assert {seen for name, seen, _ in answers if name != FAR} == {client}
        assert {seen for name, seen, _ in answers if name == FAR} == {node}


@families
def test_a_cluster_address_is_not_served_to_them(place: Site, family: int) -> None:
    vip = ADDRESSES[family][0]
    upsert(place, family, TCP, shown(vip, 80, "ClusterIP"))
    with pytest.raises(OSError):
        asked(place.world.netns, vip, 80, socket.SOCK_STREAM, timeout_s=0.5)


@families
def test_source_ranges_are_kept_to(place: Site, family: int) -> None:
    vip, _, client, _ = ADDRESSES[family]
    upsert(place, family, TCP, shown(vip), more=(f"--source-range={client}/{32 if family == 4 else 128}",))
    assert who(place, vip, 80, TCP)[0][0] in PODS
    upsert(place, family, TCP, shown(vip), more=("--source-range=10.0.0.0/8", "--source-range=fd77::/16"))
    with pytest.raises(TimeoutError):
        asked(place.world.netns, vip, 80, socket.SOCK_STREAM, timeout_s=0.5)


@families
@algorithms
def test_local_traffic_stays_on_the_node(place: Site, family: int, algorithm: str) -> None:
    vip, _, client, _ = ADDRESSES[family]
    more = ("--external-local", f"--algorithm={algorithm}")
    upsert(place, family, TCP, shown(vip), more=more, backends=("one", FAR))
    assert {(name, seen) for name, seen, _ in who(place, vip, 80, TCP, 24)} == {("one", client)}
    upsert(place, family, TCP, shown(vip), more=more, backends=(FAR,))
    with pytest.raises(ConnectionRefusedError):
        asked(place.world.netns, vip, 80, socket.SOCK_STREAM)


@families
@algorithms
def test_a_client_with_affinity_stays_with_its_backend(place: Site, family: int, algorithm: str) -> None:
    vip = ADDRESSES[family][0]
    more = ("--affinity=60", f"--algorithm={algorithm}")
    upsert(place, family, TCP, shown(vip), more=more, backends=(*PODS, FAR))
    (first,) = {name for name, _, _ in who(place, vip, 80, TCP, 16)}
    others = tuple(name for name in (*PODS, FAR) if name != first)
    upsert(place, family, TCP, shown(vip), more=more, backends=others)
    (now,) = {name for name, _, _ in who(place, vip, 80, TCP, 8)}
    assert now in others


@families
@protocols
def test_nobody_behind_it_is_a_refusal_at_once(place: Site, family: int, protocol: str) -> None:
    vip = ADDRESSES[family][0]
    upsert(place, family, protocol, shown(vip), backends=())
    with pytest.raises(ConnectionRefusedError):
        asked(place.world.netns, vip, 80, KINDS[protocol])


@families
def test_policies_judge_the_client_at_the_backend(place: Site, family: int) -> None:
    vip, _, client, _ = ADDRESSES[family]
    upsert(place, family, TCP, shown(vip), backends=("one",))
    prefix = f"{client}/{32 if family == 4 else 128}"
    allowed = f"ingress: [{{fromCIDR: ['{prefix}'], toPorts: [{{ports: [{{port: '8080'}}]}}]}}]"
    try:
        place.apply(policy("web", "one", allowed))
        assert who(place, vip, 80, TCP)[0][0] == "one"
        place.apply(policy("web", "one", allowed.replace("8080", "80")))
        with pytest.raises(TimeoutError):
            asked(place.world.netns, vip, 80, socket.SOCK_STREAM, timeout_s=0.5)
    finally:
        place.lift()


def test_clients_are_served_while_the_agent_is_dead_and_after_it_is_back(place: Site) -> None:
    """Connections to pods and to others go on, and new ones come; nothing is translated anew by another agent."""
    for family in (4, 6):
        upsert(place, family, TCP, shown(ADDRESSES[family][0]), backends=(*PODS, FAR))

    def many() -> list[tuple[socket.socket, Said]]:
        made = [opened(ADDRESSES[family][0], 80, socket.SOCK_STREAM) for family in (4, 6) for _ in range(100)]
        return [(one, said(one)) for one in made]

    held = place.world.netns.run(many)
    try:
        assert set(Counter(first[0] for _, first in held)) == {*PODS, FAR}
        place.agent.kill()
        held += place.world.netns.run(many)
        for one, first in held:
            assert said(one) == first
        place.agent.start()
        for one, first in held:
            assert said(one) == first
        held += place.world.netns.run(many)
        assert place.unequal() == []
    finally:
        for one, _ in held:
            one.close()


MANIFESTS = """\
apiVersion: v1
kind: Service
metadata: {{name: v4, namespace: shop}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.80
  externalTrafficPolicy: Local
  healthCheckNodePort: {port}
  ports: [{{port: 80, targetPort: 8080}}]
status: {{loadBalancer: {{ingress: [{{ip: {vip}}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: v4-1, namespace: shop, labels: {{kubernetes.io/service-name: v4}}}}
addressType: IPv4
ports: [{{port: 8080, protocol: TCP}}]
endpoints: [{{addresses: [{one}], nodeName: {node}, conditions: {{ready: {ready}}}}}]
"""


def test_balancers_are_told_whether_the_node_has_backends(place: Site) -> None:
    """At a port of its own, which is none of the service's frontends."""
    vip, port = ADDRESSES[4][0], 32123

    def ask(address: str) -> tuple[int, object]:
        def get() -> tuple[int, object]:
            asking_it = HTTPConnection(address, port, timeout=5)
            try:
                asking_it.request("GET", "/healthz")
                answer = asking_it.getresponse()
                return answer.status, json.loads(answer.read())
            finally:
                asking_it.close()

        return place.world.netns.run(get)

    def answered(address: str) -> tuple[int, object]:
        try:
            return ask(address)
        except OSError as error:
            return error.errno or 0, None

    one = place["one"].ipv4
    for node, ready, count in (("node", "true", 1), ("node", "false", 0), ("another", "true", 0)):
        manifests = MANIFESTS.format(port=port, vip=vip, one=one, node=node, ready=ready)
        place.agent.cplane("service", "apply", "-f", "-", "--wait", given=manifests)
        for address in (NODE4, NODE6):
            asking.until(lambda address=address: answered(address)[1], "the port is answered")
            status, body = ask(address)
            assert status == (200 if count else 503)
            assert body == {
                "service": {"namespace": "shop", "name": "v4"},
                "localEndpoints": count,
                "serviceProxyHealthy": True,
            }
    place.agent.cplane("service", "delete", "shop/v4", "--wait")
    asking.until(lambda: answered(NODE4)[1] is None, "the port is closed")


def test_status_tells_by_which_devices_and_doctor_what_xdp_needs(shared: Site) -> None:
    (device,) = asking.status(shared.agent).served_devices
    assert (device.name, device.present, device.xdp) == (CABLE, True, False)
    assert f"by {CABLE} (no XDP: lb.acceleration is disabled)" in shared.agent.cplane("status").stdout
    (check,) = [one for one in shared.agent.ask("doctor")["checks"] if one["name"] == "xdp"]
    assert check["ok"]


def test_xdp_takes_what_goes_on_to_others(with_lb: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """And only that: with the programs on tcx away, backends of the node are not reached any more."""
    with _site(with_lb, tmp_path_factory, "--lb-acceleration", "native") as place, ExitStack() as stack:
        (device,) = asking.status(place.agent).served_devices
        assert (device.present, device.xdp) == (True, True)
        assert "other end" in device.detail, "what XDP sends there would be lost"
        assert f"by {CABLE} (XDP, which sends nothing: " in place.agent.cplane("status").stdout
        for family in (4, 6):
            upsert(place, family, TCP, shown(ADDRESSES[family][0]), backends=(FAR,))
            assert who(place, ADDRESSES[family][0], 80, TCP)[0][0] == FAR
        stack.enter_context(passing(place.world.netns, "eth0"))
        asking.until(lambda: not asking.status(place.agent).served_devices[0].detail, "XDP sends", 30.0)
        assert f"by {CABLE} (XDP)" in place.agent.cplane("status").stdout
        for family in (4, 6):
            vip, node, client, _ = ADDRESSES[family]
            upsert(place, family, TCP, shown(vip), backends=("one", FAR))
            seen = {(name, seen) for name, seen, _ in who(place, vip, 80, TCP, 32)}
            assert seen == {("one", client), (FAR, node)}
        place.agent.kill()
        for name in ("from_netdev", "to_netdev"):
            next((place.agent.bpf_root / "links").glob(f"*_{name}")).unlink()
        for family in (4, 6):
            vip = ADDRESSES[family][0]
            asking.until(partial(_only_far, place, vip), "only the other node's backend is reached", 20.0)


def _only_far(place: Site, address: str) -> bool:
    """Of those that are asked in a row. The kernel lets go of programs a moment after their links."""
    found = set[str]()
    for _ in range(16):
        with suppress(OSError):
            found.add(asked(place.world.netns, address, 80, socket.SOCK_STREAM, timeout_s=0.3)[0])
    return found == {FAR}


def test_devices_come_and_go_and_what_cannot_be_is_said(
    with_lb: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    options = ("--lb-devices", f"{CABLE} absent0", "--lb-acceleration", "best-effort")
    with site(tmp_path_factory.mktemp("site"), with_lb, options=options) as place:
        cable, absent = asking.status(place.agent).served_devices
        assert (cable.present, cable.xdp) == (True, False)
        assert "veth" in cable.detail
        assert (absent.name, absent.present) == ("absent0", False)
        assert "not by absent0: there is no such Ethernet device" in place.agent.cplane("status").stdout
        place.node.ip("link", "add", "absent0", "type", "veth", "peer", "name", "absent1")
        asking.until(lambda: asking.status(place.agent).served_devices[1].present, "absent0 is served", 30.0)
        assert len(list((place.agent.bpf_root / "links").glob("*_from_netdev"))) == 2
        place.node.ip("link", "delete", "absent0")
        asking.until(lambda: not asking.status(place.agent).served_devices[1].present, "absent0 is not", 30.0)
        place.agent.stop()
        place.agent.options = tuple(one for one in place.agent.options if one not in options)
        place.agent.start()
        assert not list((place.agent.bpf_root / "links").glob("*_netdev"))
        assert place.agent.cplane("status").stdout.count("not served") == 1


def test_a_device_that_must_have_xdp_and_cannot_keeps_the_agent_from_starting(
    with_lb: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with site(tmp_path_factory.mktemp("site"), with_lb, start=False) as place:
        place.node.ip("link", "add", "br0", "type", "bridge")
        place.agent.options += ("--lb-devices", "br0", "--lb-acceleration", "native")
        status, told = place.agent.fails_to_start()
        assert status == 1
        assert "br0" in told


@pytest.fixture(scope="module", params=["opt", "ipip", "geneve"])
def nodes(
    with_lb: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[Site, Site]]:
    with two_nodes(with_lb, tmp_path_factory.mktemp, request.param) as (front, back):
        back.pods.add("one", serve=False)
        with echo("one", back["one"].netns, (back["one"].ipv4, back["one"].ipv6), 8080):
            yield front, back


@families
@protocols
@pytest.mark.parametrize("forwarding", ["snat", "dsr", "hybrid"])
def test_backends_of_other_nodes_are_met_as_they_are_wanted_to_be(
    nodes: tuple[Site, Site], family: int, protocol: str, forwarding: str
) -> None:
    """A client talks to the service, or its connection would come to nothing; the backend sees whom it answers."""
    front, back = nodes
    vip, _, client, _ = ADDRESSES[family]
    address = back["one"].address(family)
    backend = f"--backend=[{address}]:8080" if family == 6 else f"--backend={address}:8080"
    any_address = "::" if family == 6 else "0.0.0.0"
    frontends = [
        f"--frontend={one.format('/' + protocol)}" for one in (shown(vip), shown(any_address, 30080, "NodePort"))
    ]
    for one in nodes:
        one.agent.cplane(
            "service", "upsert", f"shop/v{family}", *frontends, backend, f"--forwarding={forwarding}", "--wait"
        )
    direct = forwarding == "dsr" or (forwarding == "hybrid" and protocol == TCP)
    node = BEHIND[family]
    for at, port in ((vip, 80), (ADDRESSES[family][1], 30080)):
        for _ in range(3):
            name, seen, _ = asked(front.world.netns, at, port, KINDS[protocol])
            assert (name, seen) == ("one", client if direct else node)
