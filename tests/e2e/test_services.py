"""Services at the socket: real clients in pods and on the node, and backends that come and go."""

import errno
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import asking
from tests.support.cgroup import SubGroup, subgroup
from tests.support.clients import SocketClient, socket_client
from tests.support.pods import Pod
from tests.support.site import NODE4, WORLD4, Site, policy, site

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

VIP4, VIP6 = "10.96.0.10", "fd00:96::10"
BACKENDS = ("one", "two")


@dataclass
class Served:
    """A site whose clients' sockets are served."""

    site: Site
    pod: SocketClient
    host: SocketClient

    def upsert(
        self, name: str, *frontends: str, backends: tuple[str, ...] = BACKENDS, more: tuple[str, ...] = ()
    ) -> None:
        """A service at these frontends whose backends are pods."""
        fronts = [f"--frontend={one}" for one in frontends]
        families = {6 if one.startswith("[") else 4 for one in frontends}
        backs = [
            f"--backend=[{self.site[one].ipv6}]:8080" if family == 6 else f"--backend={self.site[one].ipv4}:8080"
            for one in backends
            for family in families
        ]
        self.site.agent.cplane("service", "upsert", name, *fronts, *backs, *more, "--wait")


@pytest.fixture(scope="module")
def served(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with subgroup(f"cpe{os.getpid():x}svc") as group, _site(programs, tmp_path_factory, group) as made:
        for name in BACKENDS:
            made.pods.add(name, serve=False).serve(named=True)
        with socket_client(made["client"].netns, group) as pod, socket_client(made.node, group) as host:
            yield Served(made, pod, host)


def _site(programs: Path, tmp_path_factory: pytest.TempPathFactory, group: SubGroup, *more: str):
    if group.path is None:
        pytest.skip("needs a cgroup2 hierarchy that can be written")
    options = ("--lb-cgroup", str(group.path), *more)
    return site(tmp_path_factory.mktemp("site"), programs, ("client",), options=options)


@pytest.fixture(autouse=True)
def no_services(served: Served) -> Iterator[None]:
    yield
    names = [line.split()[3] + "/" + line.split()[4] for line in listed(served)]
    if names:
        served.site.agent.cplane("service", "delete", *dict.fromkeys(names), "--wait")


def listed(served: Served) -> list[str]:
    """The rows of `cplane service list`."""
    return served.site.agent.cplane("service", "list").stdout.splitlines()[1:]


def who(client: SocketClient, op: str, address: str, port: int = 80, **more: object) -> str:
    """Which pod answers."""
    answer = client.ask(op, address=address, port=port, **more)
    assert "answer" in answer, answer
    return str(answer["answer"]).split()[0]


@pytest.mark.parametrize(("vip", "mapped"), [(VIP4, False), (VIP4, True), (VIP6, False)])
def test_connections_reach_backends_and_believe_to_reach_the_service(served: Served, vip: str, mapped: bool) -> None:
    served.upsert("shop/web", f"[{vip}]:80" if ":" in vip else f"{vip}:80")
    answers = Counter()
    for _ in range(24):
        answer = served.pod.ask("tcp", address=vip, port=80, mapped=mapped)
        assert answer["peer"] == f"::ffff:{vip} 80" if mapped else f"{vip} 80"
        answers[answer["answer"].split()[0]] += 1
    assert set(answers) == set(BACKENDS), "each of two backends is missed by 24 connections once in eight million runs"


@pytest.mark.parametrize(("vip", "mapped"), [(VIP4, False), (VIP4, True), (VIP6, False)])
def test_datagrams_come_back_from_the_service(served: Served, vip: str, mapped: bool) -> None:
    served.upsert("shop/dns", f"[{vip}]:53/UDP" if ":" in vip else f"{vip}:53/UDP")
    expected = f"::ffff:{vip} 53" if mapped else f"{vip} 53"
    assert served.pod.ask("udp", address=vip, port=53, mapped=mapped)["source"] == expected
    assert served.pod.ask("cudp", address=vip, port=53, mapped=mapped)["peer"] == expected


def test_clients_with_affinity_stay_with_their_backend(served: Served) -> None:
    served.upsert("shop/web", f"{VIP4}:80", more=("--affinity=60",))
    first = who(served.pod, "tcp", VIP4)
    assert {who(served.pod, "tcp", VIP4) for _ in range(16)} == {first}
    served.upsert(
        "shop/web", f"{VIP4}:80", backends=tuple(one for one in BACKENDS if one != first), more=("--affinity=60",)
    )
    assert {who(served.pod, "tcp", VIP4) for _ in range(4)} == {*BACKENDS} - {first}


def test_without_backends_clients_are_refused_at_once(served: Served) -> None:
    served.upsert("shop/web", f"{VIP4}:80", f"{VIP4}:80/UDP", backends=())
    for op in ("tcp", "udp", "cudp"):
        assert served.pod.ask(op, address=VIP4, port=80)["errno"] == errno.ECONNREFUSED, op


def test_a_backend_that_leaves_keeps_its_connections_and_gets_no_new_ones(served: Served) -> None:
    served.upsert("shop/web", f"{VIP4}:80")
    kept = {}
    while set(kept) != set(BACKENDS):
        number = served.pod.ask("open", address=VIP4, port=80)["number"]
        kept[served.pod.ask("talk", number=number)["answer"].split()[0]] = number
    served.upsert("shop/web", f"{VIP4}:80", backends=("one",))
    assert {who(served.pod, "tcp", VIP4) for _ in range(16)} == {"one"}
    assert served.pod.ask("talk", number=kept["two"])["answer"].startswith("two")
    place = f"{served.site['one'].ipv4}:8080"
    served.site.agent.cplane("service", "backend", place, "--state", "maintenance", "--wait")
    assert served.pod.ask("tcp", address=VIP4, port=80)["errno"] == errno.ECONNREFUSED
    served.site.agent.cplane("service", "backend", place, "--state", "active", "--wait")
    assert who(served.pod, "tcp", VIP4) == "one"


def test_node_ports_are_served_to_pods_and_the_node_and_are_nobody_elses(served: Served) -> None:
    served.upsert("shop/web", "0.0.0.0:30080")
    assert who(served.pod, "tcp", NODE4, 30080) in BACKENDS
    assert who(served.host, "tcp", NODE4, 30080) in BACKENDS
    assert who(served.host, "tcp", "127.0.0.1", 30080) in BACKENDS
    assert served.pod.ask("tcp", address="127.0.0.1", port=30080)["errno"] == errno.ECONNREFUSED
    assert served.host.ask("bind", address="0.0.0.0", port=30080)["errno"] == errno.EPERM
    assert "errno" not in served.pod.ask("bind", address="0.0.0.0", port=30080)


def test_policies_see_backends(served: Served) -> None:
    served.upsert("shop/web", f"{VIP4}:80")
    served.site.apply(policy("web", "one", "ingress: [{}]"), policy("web2", "two", "ingress: [{}]"))
    try:
        assert "answer" not in served.pod.ask("tcp", address=VIP4, port=80)
    finally:
        served.site.lift()
    assert who(served.pod, "tcp", VIP4) in BACKENDS


def test_services_are_served_while_the_agent_is_dead_and_after_it_is_back(served: Served) -> None:
    served.upsert("shop/web", f"{VIP4}:80")
    kept = served.pod.ask("open", address=VIP4, port=80)["number"]
    served.site.agent.kill()
    assert who(served.pod, "tcp", VIP4) in BACKENDS
    served.site.agent.start()
    assert who(served.pod, "tcp", VIP4) in BACKENDS
    assert served.pod.ask("talk", number=kept)["answer"].split()[0] in BACKENDS
    assert served.site.unequal() == []


MANIFESTS = """\
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: demo, labels: {{tier: front}}}}
spec:
  clusterIP: {vip}
  selector: {{app: one}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: demo, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints: [{{addresses: [{one}], conditions: {{ready: true}}}}]
"""


def test_manifests_of_kubernetes_are_served_and_policies_name_them(served: Served) -> None:
    cplane = served.site.agent.cplane
    manifests = MANIFESTS.format(vip=VIP4, one=served.site["one"].ipv4)
    cplane("service", "apply", "-f", "-", "--wait", given=manifests)
    assert who(served.pod, "tcp", VIP4) == "one"
    reached = policy("client", "client", "egress:\n- toServices: [{k8sService: {serviceName: web, namespace: demo}}]")
    other = policy("client", "client", "egress:\n- toServices: [{k8sService: {serviceName: api, namespace: demo}}]")
    try:
        served.site.apply(reached)
        assert who(served.pod, "tcp", VIP4) == "one"
        served.site.apply(other)
        assert "answer" not in served.pod.ask("tcp", address=VIP4, port=80)
        cplane("service", "upsert", "demo/api", "--frontend=10.96.0.99:80", "--wait")
        assert "answer" not in served.pod.ask("tcp", address=VIP4, port=80), "a service without a selector has no pods"
    finally:
        served.site.lift()
    wrong = cplane("service", "apply", "-f", "-", given=manifests.replace("port: 80,", "port: 0,"), check=False)
    assert wrong.returncode == 1
    assert "document 1, spec.ports[0].port" in wrong.stderr
    assert who(served.pod, "tcp", VIP4) == "one", "nothing was changed"


def test_only_sockets_of_the_node_are_served_where_that_is_asked_for(
    programs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with (
        subgroup(f"cpe{os.getpid():x}svc-host") as group,
        _site(programs, tmp_path_factory, group, "--lb-hostns-only") as made,
        socket_client(made["client"].netns, group) as pod,
        socket_client(made.node, group) as host,
    ):
        made.pods.add("one", serve=False).serve(named=True)
        served = Served(made, pod, host)
        served.upsert("shop/web", "0.0.0.0:30080", backends=("one",))
        assert who(host, "tcp", NODE4, 30080) == "one"
        assert pod.ask("tcp", address=NODE4, port=30080)["errno"] == errno.ECONNREFUSED
        made.agent.cplane("config", "Debug=Enabled")
        assert pod.ask("tcp", address=NODE4, port=30080)["errno"] == errno.ECONNREFUSED, (
            "exchanged programs do the same"
        )


def test_a_table_of_services_that_would_be_full_refuses_and_stays_as_it_is(
    programs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A frontend more than there is room for: nothing is changed. As many others in the place of all have room."""
    limit = 1024
    with (
        subgroup(f"cpe{os.getpid():x}full") as group,
        _site(programs, tmp_path_factory, group, "--bpf-lb-map-max", str(limit)) as made,
    ):
        fronts = [f"--frontend=10.97.{number >> 8}.{number & 255}:80" for number in range(limit)]
        backend = f"--backend={made['client'].ipv4}:8080"
        made.agent.cplane("service", "upsert", "shop/full", *fronts, backend, "--wait")
        before = made.agent.cplane("log").stdout
        refused = made.agent.cplane("service", "upsert", "shop/more", "--frontend=10.98.0.1:80", backend, check=False)
        assert refused.returncode == 1
        assert "would need 1025 entries and holds 1024: nothing was changed" in refused.stderr
        assert made.agent.cplane("log").stdout == before
        others = [f"--frontend=10.99.{number >> 8}.{number & 255}:80" for number in range(limit)]
        made.agent.cplane("service", "upsert", "shop/full", *others, backend, "--wait")
        made.agent.cplane("service", "delete", "shop/full", "--wait")
        made.agent.cplane("service", "upsert", "shop/more", "--frontend=10.98.0.1:80", backend, "--wait")


def test_policies_name_addresses_by_a_service_without_a_selector(served: Served) -> None:
    """What is behind it is outside; when it is not any more, nobody may go there."""
    cplane = served.site.agent.cplane
    served.site.world.serve(named=True)
    outside = f"--backend={WORLD4}:8080"
    cplane("service", "upsert", "demo/old", f"--frontend={VIP4}:80", outside, "--wait")
    try:
        for side, reached in (("egress", True), ("egressDeny", False)):
            named = f"{side}:\n- toServices: [{{k8sService: {{serviceName: old, namespace: demo}}}}]"
            served.site.apply(policy("client", "client", named))
            assert ("answer" in served.pod.ask("tcp", address=VIP4, port=80)) is reached, side
            assert f"cidr:{WORLD4}/32" in cplane("identity", "list").stdout
        served.site.apply(policy("client", "client", "egress:\n- toServices: [{k8sService: {serviceName: old}}]"))
        assert who(served.pod, "tcp", VIP4) == "world"
        cplane("service", "upsert", "demo/old", f"--frontend={VIP4}:80", "--backend=203.0.113.9:8080", "--wait")
        assert "answer" not in served.pod.ask("tcp", address=WORLD4, port=8080)
        assert f"cidr:{WORLD4}/32" not in cplane("identity", "list").stdout
    finally:
        served.site.lift()


@contextmanager
def _web(pod: Pod, folder: Path) -> Iterator[int]:
    """Files of the folder are served over HTTP at a port of the pod."""
    port = 8081
    command = [sys.executable, "-u", "-m", "http.server", str(port), "--directory", str(folder)]
    process = subprocess.Popen(
        ["nsenter", f"--net={pod.netns.path}", "--", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Serving HTTP")
        yield port
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def test_backends_that_have_not_what_they_are_asked_for_get_no_new_connections(
    programs: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    with (
        subgroup(f"cpe{os.getpid():x}svc-health") as group,
        _site(programs, tmp_path_factory, group, "--lb-health-interval-s", "1") as made,
        socket_client(made["client"].netns, group) as client,
    ):
        made.pods.add("one", serve=False).serve(named=True)
        web = made.pods.add("web", serve=False)
        with _web(web, tmp_path) as port:
            healthz = tmp_path / "healthz"
            healthz.write_text("well\n")
            places = (f"{made['one'].ipv4}:8080", f"{web.ipv4}:{port}")
            backends = [f"--backend={one}" for one in places]

            def quarantined() -> list[str]:
                said = made.agent.cplane("service", "list").stdout
                return [place for place in places if f"{place}/TCP (quarantined)" in said]

            made.agent.cplane("service", "upsert", "shop/echo", f"--frontend={VIP4}:81", backends[0], "--wait")
            asked = ("service", "upsert", "shop/web", f"--frontend={VIP4}:80", *backends, "--health-path=/healthz")
            made.agent.cplane(*asked, "--wait")
            asking.until(lambda: quarantined() == [places[0]], "who accepts, but has no such path, is not well", 30)
            assert client.ask("tcp", address=VIP4, port=81)["errno"] == errno.ECONNREFUSED, "for others neither"
            assert client.ask("open", address=VIP4, port=80)["peer"] == f"{VIP4} 80"
            healthz.unlink()
            asking.until(lambda: quarantined() == [*places], "what is missing was noticed", 30)
            assert client.ask("open", address=VIP4, port=80)["errno"] == errno.ECONNREFUSED
            healthz.write_text("well\n")
            asking.until(lambda: quarantined() == [places[0]], "it is there again", 30)
            assert made.agent.cplane("log", "-o", "json").stdout.count('"health check"') == 3


REDIRECT = """
apiVersion: v1
kind: Pod
metadata: {{name: one, namespace: demo, labels: {{app: cache}}}}
spec: {{nodeName: node, containers: [{{name: c, image: i}}]}}
status: {{phase: Running, podIP: {one}, conditions: [{{type: Ready, status: "True"}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: demo, labels: {{app: cache}}}}
spec: {{nodeName: node, containers: [{{name: c, image: i}}]}}
status: {{phase: Running, podIP: {client}, conditions: [{{type: Ready, status: "True"}}]}}
---
apiVersion: cilium.io/v2
kind: CiliumLocalRedirectPolicy
metadata: {{name: cache, namespace: demo}}
spec:
  skipRedirectFromBackend: {skip}
  redirectFrontend:
    addressMatcher: {{ip: {vip}, toPorts: [{{port: "80", protocol: TCP}}]}}
  redirectBackend:
    localEndpointSelector: {{matchLabels: {{app: cache}}}}
    toPorts: [{{port: "8080", protocol: TCP}}]
"""


def test_a_pod_that_others_are_redirected_to_reaches_the_service(served: Served) -> None:
    served.upsert("demo/web", f"{VIP4}:80", backends=("two",))
    addresses = {name: served.site[name].ipv4 for name in ("one", "client")}
    cache = {"one", "hello"}  # the client's own server gives no name
    for skip, expected in (("true", {"two"}), ("false", cache)):
        redirect = REDIRECT.format(vip=VIP4, skip=skip, **addresses)
        served.site.agent.cplane("service", "apply", "-f", "-", "--wait", given=redirect)
        assert {who(served.pod, "tcp", VIP4) for _ in range(24)} == expected
        assert {who(served.host, "tcp", VIP4) for _ in range(24)} == cache


def test_what_a_connection_asked_for_and_what_it_got_are_flows(served: Served) -> None:
    port = 8088  # no other test's
    served.upsert("shop/web", f"{VIP4}:{port}", backends=("one",))
    served.pod.ask("tcp", address=VIP4, port=port)

    def told() -> list[dict[str, Any]]:
        found = served.site.agent.flows("--type", "trace-sock", "--pod", "demo/client")
        asked = {"TCP": {"destination_port": port}}
        sockets = {one["socket_cookie"] for one in found if one["l4"] == asked}
        return [one for one in found if one["socket_cookie"] in sockets]

    asking.until(lambda: len(told()) == 2, "both are seen")
    before, after = told()
    assert (before["verdict"], after["verdict"]) == ("TRACED", "TRANSLATED")
    assert before["IP"]["destination"] == VIP4
    assert before["destination_service"] == {"name": "web", "namespace": "shop"}
    assert after["destination"]["pod_name"] == "one"
    assert after["l4"] == {"TCP": {"destination_port": 8080}}
    assert before["source"] == after["source"]
    assert before["source"]["pod_name"] == "client"
    lines = served.site.agent.hubble("observe", "--type", "trace-sock", "--last", "2").stdout
    assert "pre-xlate-fwd TRACED" in lines
    assert "post-xlate-fwd TRANSLATED" in lines


def test_sockets_that_would_send_to_a_backend_that_left_are_ended(served: Served) -> None:
    served.upsert("shop/dns", f"{VIP4}:53/UDP", backends=("one",))
    kept = {}
    for name, client in (("pod", served.pod), ("node", served.host)):
        kept[name] = client.ask("uopen")["number"]
        client.ask("turn", number=kept[name], address=VIP4, port=53)
        assert client.ask("talk", number=kept[name]) == {"answer": "one hello"}
    itself = served.pod.ask("uopen")["number"]
    served.pod.ask("turn", number=itself, address=served.site["one"].ipv4, port=8080)
    served.upsert("shop/dns", f"{VIP4}:53/UDP", backends=("two",))
    for name, client in (("pod", served.pod), ("node", served.host)):
        asking.until(lambda c=client, n=kept[name]: "errno" in c.ask("talk", number=n), f"that of the {name} is ended")
        assert who(client, "cudp", VIP4, 53) == "two"
    assert served.pod.ask("talk", number=itself) == {"answer": "one hello"}, "it never asked for the service"
