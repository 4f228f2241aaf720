"""Secrets of Kubernetes: an agent, a real Envoy, and an API server that changes certificates under it."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.apiserver import ApiServer, api_server, kubeconfig
from tests.support.certificates import Certificates
from tests.support.site import Site, policy, site
from tests.support.web import Web, started

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]

TLS = """ingress:
- fromEndpoints: [{matchLabels: {app: client}}]
  toPorts:
  - ports: [{port: "443", protocol: TCP}]
    terminatingTLS: {secret: {namespace: demo, name: tls}}
    rules: {http: [{method: GET, path: "/public/.*"}]}
"""
TOKEN = """ingress:
- fromEndpoints: [{matchLabels: {app: client}}]
  toPorts:
  - ports: [{port: "80", protocol: TCP}]
    rules: {http: [{headerMatches: [{name: X-Token, secret: {namespace: demo, name: token}}]}]}
"""


class Cluster:
    """A site whose agent reads secrets from an API server in the same namespace, and files of certificates."""

    def __init__(self, made: Site, folder: Path) -> None:
        self.site, self.web, self.folder = made, Web(made), folder
        self.files = Certificates(folder)
        for name in ("api", "first", "second"):
            self.files.make(name)

    def listener(self) -> socket.socket:
        return self.site.node.run(lambda: socket.create_server(("127.0.0.1", 0)))

    def pair(self, name: str) -> dict[str, bytes]:
        return {f"tls.{kind}": Path(self.files.of(name, kind)).read_bytes() for kind in ("crt", "key")}

    def told(self) -> str:
        """What is said of policies."""
        return self.site.agent.cplane("policy", "status").stdout

    def status(self, path: str, trusted: str) -> str:
        """What the server answers over TLS to who trusts that certificate alone; 000: nothing."""
        target = f"https://127.0.0.1{path}"
        connect = ["--connect-to", f"127.0.0.1:443:{self.web.server.ipv4}:443"]
        command = ["curl", "-s", "--http1.1", "-m", "5", "--cacert", self.files.of(trusted, "crt"), *connect]
        command += ["-o", "/dev/null", "-w", "%{http_code}", target]
        enter = ["nsenter", f"--net={self.web.client.netns.path}", "--"]
        return subprocess.run([*enter, *command], capture_output=True, check=False).stdout.decode()


@pytest.fixture(scope="module")
def cluster(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    options = ("--proxy-secrets-kubernetes", str(folder / "kubeconfig"))
    with site(tmp_path_factory.mktemp("site"), programs, ("client",), options=options) as made:
        cluster = Cluster(made, folder)
        encrypted = started(cluster.web.server.netns, 443)
        try:
            yield cluster
        finally:
            encrypted.kill()
            encrypted.communicate()


@pytest.fixture
def api(cluster: Cluster) -> Iterator[ApiServer]:
    files = cluster.files
    with api_server(Path(files.of("api", "crt")), Path(files.of("api", "key")), cluster.listener()) as made:
        kubeconfig(cluster.folder, made.port, ca="api.crt")
        yield made
    cluster.site.lift()


def until(check: Callable[[], bool], patience_s: float = 60) -> None:
    deadline = time.monotonic() + patience_s
    while not check():
        assert time.monotonic() < deadline, "it has not come true"
        time.sleep(0.05)


def test_a_certificate_that_rotates_in_kubernetes_is_shown_by_envoy(cluster: Cluster, api: ApiServer) -> None:
    first, second = cluster.pair("first"), cluster.pair("second")
    api.put("demo", "tls", first)
    api.put("demo", "unnamed", second)
    cluster.site.apply(policy("api", "server", TLS))
    until(lambda: cluster.status("/public/a", "first") == "200")
    assert cluster.status("/private", "first") == "403"
    assert cluster.status("/public/a", "second") == "000"
    api.put("demo", "tls", second)
    until(lambda: cluster.status("/public/a", "second") == "200")
    assert cluster.status("/private", "second") == "403"
    assert cluster.status("/public/a", "first") == "000"
    assert all("metadata.name%3Dtls" in one for one in api.requests)
    api.remove("demo", "tls")
    until(lambda: cluster.status("/public/a", "second") == "000")
    api.put("demo", "tls", first)
    until(lambda: cluster.status("/public/a", "first") == "200")


def test_a_value_of_a_header_that_rotates_is_asked_for(cluster: Cluster, api: ApiServer) -> None:
    api.put("demo", "token", {"value": b"one"})
    cluster.site.apply(policy("api", "server", TOKEN))
    until(lambda: cluster.web.status("/", "-H", "X-Token: one") == "200")
    assert cluster.web.status("/", "-H", "X-Token: two") == "403"
    api.put("demo", "token", {"value": b"two"})
    until(lambda: cluster.web.status("/", "-H", "X-Token: two") == "200")
    assert cluster.web.status("/", "-H", "X-Token: one") == "403"


def test_without_a_server_the_rule_lets_nothing_pass_and_says_why(cluster: Cluster, api: ApiServer) -> None:
    api.put("demo", "tls", cluster.pair("first"))
    api.rules.tokens.clear()
    cluster.site.apply(policy("api", "server", TLS))
    assert cluster.status("/public/a", "first") == "000"
    until(lambda: "401: who is asking is not known there" in cluster.told())
    assert "secret demo/tls is not there" in cluster.told()
    (cluster.folder / "kubeconfig").unlink()
    until(lambda: "No such file" in cluster.told())
    api.rules.tokens.add("new")
    kubeconfig(cluster.folder, api.port, ca="api.crt", token="new")
    until(lambda: cluster.status("/public/a", "first") == "200")
    assert "secret" not in cluster.told()


def test_what_was_read_counts_while_the_server_is_away(cluster: Cluster, api: ApiServer) -> None:
    api.put("demo", "tls", cluster.pair("first"))
    cluster.site.apply(policy("api", "server", TLS))
    until(lambda: cluster.status("/public/a", "first") == "200")
    api.close()
    until(lambda: "Connection refused" in cluster.told())
    assert cluster.status("/public/a", "first") == "200"


def test_nothing_of_a_secret_is_in_the_log_or_on_disk(cluster: Cluster, api: ApiServer) -> None:
    pair = cluster.pair("first")
    api.put("demo", "tls", pair)
    cluster.site.apply(policy("api", "server", TLS))
    until(lambda: cluster.status("/public/a", "first") == "200")
    key = pair["tls.key"].splitlines()[1]
    agent = cluster.site.agent
    held = [one for place in (agent.state, agent.run_dir) for one in place.rglob("*") if one.is_file()]
    assert agent.state / "log.db" in held
    assert [one for one in (*held, agent.output) if key in one.read_bytes()] == []
