"""Secrets from the API of Kubernetes: a server that answers, one that does not, and how it is found."""

import base64
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
import yaml

from cplane.agent import kubesecrets
from cplane.agent.apiserver import NoApiServer, in_cluster, locate, of_kubeconfig
from cplane.agent.kubesecrets import KubernetesSecrets
from cplane.domain.policy.http import Secret
from tests.support.apiserver import TOKEN, ApiServer, api_server, kubeconfig, response
from tests.support.certificates import Certificates
from tests.support.exhausted import files_left

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

TLS, OTHER = Secret("shop", "tls"), Secret("shop", "other")
WHERE = "https://127.0.0.1:{port}"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first look takes as long as a busy machine needs."""
    monkeypatch.setattr(kubesecrets, "FIRST_S", 20.0)


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    made = Certificates(tmp_path)
    for name in ("server", "stranger"):
        made.make(name)
    made.put(made.ca, made.of("server", "crt"))
    return made


@pytest.fixture
def server(files: Certificates) -> Iterator[ApiServer]:
    with api_server(Path(files.of("server", "crt")), Path(files.of("server", "key"))) as made:
        yield made


@pytest.fixture
def config(files: Certificates, server: ApiServer) -> Path:
    return kubeconfig(files.folder, server.port)


@asynccontextmanager
async def reading(config: Path, retry_s: float = 0.05) -> AsyncIterator[KubernetesSecrets]:
    made = KubernetesSecrets(locate(str(config)), retry_s=retry_s)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(made.run)
            await anyio.wait_all_tasks_blocked()
            yield made
            group.cancel_scope.cancel()


async def until(check: Callable[[], bool]) -> None:
    while not check():  # noqa: ASYNC110  # threads change it
        await anyio.sleep(0.005)


async def becomes(source: KubernetesSecrets, secret: Secret, items: object, *others: Secret) -> None:
    """What `changed` announces."""
    while (await source.read({secret, *others})).get(secret) != items:
        await source.changed()


async def test_a_secret_is_read_and_followed(server: ApiServer, config: Path) -> None:
    server.put("shop", "tls", {"tls.crt": b"1"})
    async with reading(config) as source:
        assert await source.read({TLS}) == {TLS: {"tls.crt": b"1"}}
        server.put("shop", "tls", {"tls.crt": b"2"})
        await becomes(source, TLS, {"tls.crt": b"2"})
        server.remove("shop", "tls")
        await becomes(source, TLS, None)
        server.put("shop", "tls", {"tls.crt": b"3"})
        await becomes(source, TLS, {"tls.crt": b"3"})
        assert source.reasons() == {}


async def test_nothing_is_asked_for_that_nobody_names_or_names_no_more(server: ApiServer, config: Path) -> None:
    server.put("shop", "tls", {"a": b"1"})
    async with reading(config) as source:
        assert await source.read(()) == {}
        assert server.requests == []
        await source.read({TLS, OTHER})
        await source.read({OTHER})
        server.put("shop", "other", {"b": b"1"})
        await becomes(source, OTHER, {"b": b"1"})
        assert {one.partition("?")[0] for one in server.requests} == {"/api/v1/namespaces/shop/secrets"}
        assert all("metadata.name%3Dtls" in one or "metadata.name%3Dother" in one for one in server.requests)
        asked = len(server.requests)
        server.cut()
        await until(lambda: len(server.requests) > asked)
        assert all("metadata.name%3Dother" in one for one in server.requests[asked:])


async def test_a_watch_that_breaks_off_begins_again_and_nothing_is_missed(server: ApiServer, config: Path) -> None:
    server.put("shop", "tls", {"a": b"1"})
    async with reading(config) as source:
        await source.read({TLS})
        for number in range(2, 6):
            server.cut()
            server.put("shop", "tls", {"a": b"%d" % number})
            await becomes(source, TLS, {"a": b"%d" % number})


async def test_changes_that_the_server_has_forgotten_are_listed(server: ApiServer, config: Path) -> None:
    server.put("shop", "tls", {"a": b"1"})
    async with reading(config) as source:
        await source.read({TLS})
        await until(lambda: server.watches() == 1)
        server.put("other", "x", {})
        server.forget()
        await until(lambda: server.watches() == 2)
        assert await source.read({TLS}) == {TLS: {"a": b"1"}}
        assert source.reasons() == {}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda rules: rules.tokens.clear(), "401: who is asking is not known there"),
        (
            lambda rules: rules.forbidden.add(("shop", "tls")),
            "403: the role of who is asking lacks `list` and `watch` of this secret",
        ),
        (lambda rules: setattr(rules, "answer", response(404, b"")), "status 404"),
        (lambda rules: setattr(rules, "answer", response(500, b"")), "status 500"),
        (lambda rules: setattr(rules, "answer", b""), "the connection ends before the answer does"),
        (lambda rules: setattr(rules, "answer", b"SSH-2.0-OpenSSH\r\n\r\n"), "its answer is no HTTP"),
        (lambda rules: setattr(rules, "answer", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000), "its answer is no HTTP"),
        (lambda rules: setattr(rules, "answer", response(200, b"<html>")), "the answer is not what Kubernetes says"),
        (lambda rules: setattr(rules, "answer", response(200, b"[" * 100_000)), "the answer is not what Kubernetes"),
        (lambda rules: setattr(rules, "answer", response(200, b"x")[:-1]), "the connection ends before the answer"),
        (lambda rules: setattr(rules, "answer", response(200, bytes(5 << 20))), "an answer of more than 4194304 bytes"),
    ],
)
async def test_a_secret_that_cannot_be_read_is_not_there_says_why_and_is_tried_again(
    server: ApiServer, config: Path, spoil: Callable[[object], None], reason: str
) -> None:
    server.put("shop", "tls", {"a": b"1"})
    spoil(server.rules)
    async with reading(config) as source:
        assert await source.read({TLS}) == {}
        assert reason in source.reasons()[TLS]
        server.rules.tokens.add(TOKEN)
        server.rules.forbidden.clear()
        server.rules.answer = None
        await becomes(source, TLS, {"a": b"1"})
        assert source.reasons() == {}


async def test_garbage_in_a_watch_leaves_what_was_known_and_is_got_over(server: ApiServer, config: Path) -> None:
    server.put("shop", "tls", {"a": b"1"})
    async with reading(config) as source:
        await source.read({TLS})
        await until(lambda: server.watches() == 1)
        server.tell("NONSENSE", {})
        await until(lambda: server.watches() == 2)
        assert await source.read({TLS}) == {TLS: {"a": b"1"}}


async def test_what_was_read_counts_while_the_server_is_away(server: ApiServer, config: Path) -> None:
    server.put("shop", "tls", {"a": b"1"})
    async with reading(config) as source:
        await source.read({TLS})
        server.close()
        await until(lambda: TLS in source.reasons())
        assert await source.read({TLS}) == {TLS: {"a": b"1"}}


async def test_a_server_that_is_not_there_is_tried_less_and_less_often(files: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with reading(kubeconfig(files.folder, port), retry_s=20) as source:
        assert await source.read({TLS}) == {}
        assert source.reasons() == {TLS: f"https://127.0.0.1:{port}: Connection refused"}


async def test_a_server_with_a_certificate_of_somebody_else_is_told_nothing(files: Certificates) -> None:
    with api_server(Path(files.of("stranger", "crt")), Path(files.of("stranger", "key"))) as stranger:
        async with reading(kubeconfig(files.folder, stranger.port)) as source:
            assert await source.read({TLS}) == {}
            assert "its certificate is not to be trusted" in source.reasons()[TLS]
            assert stranger.requests == []


async def test_a_name_that_tls_does_not_have_is_no_answer(server: ApiServer, files: Certificates) -> None:
    config = kubeconfig(files.folder, server.port)
    content = yaml.safe_load(config.read_text())
    content["clusters"][0]["cluster"]["tls-server-name"] = ".x"
    config.write_text(yaml.safe_dump(content))
    async with reading(config) as source:
        assert await source.read({TLS}) == {}
        assert "its name cannot be used" in source.reasons()[TLS]


async def test_a_token_that_rotates_is_read_again(server: ApiServer, files: Certificates, tmp_path: Path) -> None:
    account = tmp_path / "account"
    account.mkdir()
    files.put(str(account / "ca.crt"), files.ca)
    (account / "token").write_text("old\n")
    environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.port)}
    server.put("shop", "tls", {"a": b"1"})
    made = KubernetesSecrets(lambda: in_cluster(environment, account), retry_s=0.05)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(made.run)
            assert await made.read({TLS}) == {}
            (account / "token").write_text(f"{TOKEN}\n")
            await becomes(made, TLS, {"a": b"1"})
            group.cancel_scope.cancel()


async def test_more_secrets_than_are_followed_are_not_there_and_say_so(
    server: ApiServer, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubesecrets, "FOLLOWED_MAX", 1)
    for name in ("other", "tls"):
        server.put("shop", name, {"a": b"1"})
    async with reading(config) as source:
        assert await source.read({TLS, OTHER}) == {OTHER: {"a": b"1"}}
        assert source.reasons() == {TLS: "more than 1 secrets are named"}
        assert await source.read({TLS}) == {TLS: {"a": b"1"}}
        assert source.reasons() == {}


async def test_a_name_that_kubernetes_does_not_have_is_not_asked_for(server: ApiServer, config: Path) -> None:
    async with reading(config) as source:
        assert await source.read({Secret("", "tls"), Secret("shop", "../pods")}) == {}
        assert set(source.reasons().values()) == {"it is not the name of a namespace and of a secret in it"}
        assert server.requests == []


def encoded(path: str) -> str:
    return base64.b64encode(Path(path).read_bytes()).decode()


def test_a_kubeconfig_may_have_everything_in_it(files: Certificates, config: Path) -> None:
    content = yaml.safe_load(config.read_text())
    content["clusters"][0]["cluster"] = {
        "server": "https://[::1]:6443/prefix",
        "certificate-authority-data": encoded(files.of("server", "crt")),
        "tls-server-name": "kubernetes",
    }
    content["users"][0]["user"] = {
        "client-certificate-data": encoded(files.of("server", "crt")),
        "client-key-data": encoded(files.of("server", "key")),
    }
    config.write_text(yaml.safe_dump(content))
    found = of_kubeconfig(config)
    assert str(found.server) == "https://[::1]:6443/prefix"
    assert found.server.name == "kubernetes"
    assert "authorization" not in found.headers


@pytest.mark.parametrize(
    ("user", "cluster"),
    [
        ({"token": "two\nlines"}, {}),
        ({"tokenFile": "missing"}, {}),
        ({"client-certificate": "server.key", "client-key": "server.key"}, {}),
        ({"client-certificate": "server.crt", "client-key": "stranger.key"}, {}),
        ({}, {"certificate-authority": "server.key"}),
        ({}, {"certificate-authority-data": "AA=="}),
    ],
)
def test_credentials_that_cannot_be_used_are_named(
    files: Certificates, config: Path, user: dict[str, str], cluster: dict[str, str]
) -> None:
    content = yaml.safe_load(config.read_text())
    content["users"][0]["user"] = user
    content["clusters"][0]["cluster"] = {"server": "https://127.0.0.1:1"} | cluster
    config.write_text(yaml.safe_dump(content))
    with pytest.raises(NoApiServer):
        of_kubeconfig(config)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoApiServer, match="No such file"):
        of_kubeconfig(tmp_path / "kubeconfig")
    with pytest.raises(NoApiServer, match="KUBERNETES_SERVICE_HOST"):
        in_cluster({}, tmp_path)
    with pytest.raises(NoApiServer, match="_PORT"):
        in_cluster({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "65536"}, tmp_path)
    with pytest.raises(NoApiServer, match=r"ca\.crt"):
        in_cluster({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}, tmp_path)


def test_a_process_with_too_many_open_files_finds_no_server(tmp_path: Path) -> None:
    pair = {"client-certificate-data": "eA==", "client-key-data": "eA=="}
    path = tmp_path / "config"
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                "clusters": [{"name": "k", "cluster": {"server": "https://192.0.2.1"}}],
                "users": [{"name": "u", "user": pair}],
            }
        )
    )
    with files_left(1), pytest.raises(NoApiServer, match="Too many open files"):
        of_kubeconfig(path)
