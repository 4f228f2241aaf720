"""Kubeconfig files."""

import base64

import pytest
import yaml

from cplane.k8s.kubeconfig import Access, BadKubeconfig, Content, read_kubeconfig


def config(server: str = "https://api.example:6443", user: object = None, **cluster: object) -> bytes:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "preferences": {},
            "current-context": "b",
            "contexts": [
                {"name": "a", "context": {"cluster": "x", "user": "x"}},
                {"name": "b", "context": {"cluster": "c", "user": "u", "namespace": "shop"}},
            ],
            "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
            "users": [{"name": "u", "user": user if user is not None else {"token": "t"}}],
        }
    ).encode()


def encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()


def test_the_current_context_counts():
    assert read_kubeconfig(config()) == Access("api.example", 6443, token=Content(b"t"))


@pytest.mark.parametrize(
    ("server", "place"),
    [
        ("https://10.0.0.1", ("10.0.0.1", 443, "")),
        ("https://[fd00::1]:6443", ("fd00::1", 6443, "")),
        ("https://rancher.example/k8s/clusters/c-1/", ("rancher.example", 443, "/k8s/clusters/c-1")),
    ],
)
def test_a_server_is_a_url(server, place):
    found = read_kubeconfig(config(server))
    assert (found.host, found.port, found.path) == place


def test_data_counts_before_a_file_and_a_file_of_a_token_before_the_token():
    user = {
        "client-certificate": "c.pem",
        "client-certificate-data": encoded(b"C"),
        "client-key": "k.pem",
        "token": "t",
        "tokenFile": "token",
    }
    found = read_kubeconfig(config(user=user, **{"certificate-authority": "ca.pem", "tls-server-name": "kubernetes"}))
    assert (found.certificate, found.key, found.ca) == (Content(b"C"), Content(path="k.pem"), Content(path="ca.pem"))
    assert (found.token, found.name, found.insecure) == (Content(path="token"), "kubernetes", False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"a: b",
        b"current-context: b\ncontexts: {}",
        config("http://api.example"),
        config("https://"),
        config("https://user:secret@api.example"),
        config("https://api.example:port"),
        config("https://api.example/a b"),
        config(user={"exec": {"command": "aws"}}),
        config(user={"auth-provider": {"name": "gcp"}}),
        config(user={"username": "u", "password": "secret"}),
        config(user={"token": "secret", "as": "admin"}),
        config(user={"client-certificate-data": "secret!", "client-key-data": "secret!"}),
        config(user={"client-certificate": "c.pem"}),
        config(user={"token": 5}),
        config(**{"proxy-url": "http://proxy:3128"}),
    ],
)
def test_what_cannot_be_used_is_refused_without_a_word_of_credentials(data):
    with pytest.raises(BadKubeconfig) as refused:
        read_kubeconfig(data)
    assert "secret" not in str(refused.value).replace("user:secret", "")


def test_a_user_may_be_nobody():
    data = yaml.safe_load(config())
    del data["contexts"][1]["context"]["user"], data["users"]
    assert not read_kubeconfig(yaml.safe_dump(data).encode()).token
