"""Settings of a relay: upstream's flags, variables and configuration file."""

from pathlib import Path

import pytest

from cplane.hubble.relay.settings import BadSetting, read
from cplane.transport.address import TcpAddress, UnixAddress

PLAIN = {"disable-client-tls": "true", "disable-server-tls": "true"}
HELM = """
cluster-name: default
peer-service: "hubble-peer.kube-system.svc.cluster.local.:443"
listen-address: :4245
gops: true
gops-port: "9893"
retry-timeout:
sort-buffer-len-max:
sort-buffer-drain-timeout:
tls-hubble-client-cert-file: /tls/client.crt
tls-hubble-client-key-file: /tls/client.key
tls-hubble-server-ca-files: /tls/ca.crt
disable-server-tls: true
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def test_the_file_that_helm_makes_is_taken(path: Path) -> None:
    path.write_text(HELM)
    settings = read({}, {}, str(path))
    assert settings.peer_service == "hubble-peer.kube-system.svc.cluster.local.:443"
    assert settings.listen == TcpAddress("", 4245)
    assert settings.health == TcpAddress("", 4222)
    assert (settings.retry_s, settings.window, settings.drain_s, settings.dial_s) == (30, 100, 1, 5)
    assert settings.client_tls
    assert not settings.server_tls
    assert settings.server_authorities == ("/tls/ca.crt",)
    assert settings.warnings == (f"{path}: gops: it has no meaning here", f"{path}: gops-port: it has no meaning here")


def test_names_from_before_are_taken(path: Path) -> None:
    path.write_text(HELM.replace("tls-hubble-client", "tls-client"))
    assert read({}, {}, str(path)).client_certificate == "/tls/client.crt"


def test_flags_count_before_variables_and_these_before_the_file(path: Path) -> None:
    path.write_text("retry-timeout: 1s\nsort-buffer-len-max: 7\ncluster-name: file\n")
    settings = read(
        {**PLAIN, "retry-timeout": "3s"}, {"RELAY_RETRY_TIMEOUT": "2s", "RELAY_CLUSTER_NAME": "env"}, str(path)
    )
    assert (settings.retry_s, settings.cluster, settings.window) == (3, "env", 7)


def test_addresses_may_be_sockets_and_health_may_be_off(path: Path) -> None:
    path.touch()
    settings = read({**PLAIN, "listen-address": "unix:///run/x.sock", "health-listen-address": "-"}, {}, str(path))
    assert (settings.listen, settings.health) == (UnixAddress("/run/x.sock"), None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"retry-timeout": "soon"}, "--retry-timeout: 'soon' is not a duration"),
        ({"retry-timeout": "0s"}, "--retry-timeout: '0s' is not a duration"),
        ({"sort-buffer-len-max": "0"}, "--sort-buffer-len-max: '0' is not a number from 1"),
        ({"listen-address": "nowhere"}, "--listen-address: address 'nowhere'"),
        ({"log-level": "loud"}, "--log-level: 'loud' is not one of"),
        ({"disable-server-tls": "perhaps"}, "'perhaps' is neither true nor false"),
        ({"disable-client-tls": "false"}, "tls-hubble-server-ca-files: it is needed to know the nodes"),
        ({"disable-server-tls": "false"}, "tls-relay-server-cert-file: it and tls-relay-server-key-file are needed"),
        ({"tls-hubble-client-cert-file": "x"}, "tls-hubble-client-key-file are needed together"),
        ({"tls-relay-client-ca-files": "a,b"}, "one file is taken"),
    ],
)
def test_what_cannot_be_is_named_where_it_stands(path: Path, flags: dict[str, str], message: str) -> None:
    path.touch()
    with pytest.raises(BadSetting) as caught:
        read({**PLAIN, **flags}, {}, str(path))
    assert message in str(caught.value)


def test_a_value_of_the_file_is_named_with_the_file(path: Path) -> None:
    path.write_text("dial-timeout: never")
    with pytest.raises(BadSetting, match=r"config\.yaml: dial-timeout: 'never' is not a duration"):
        read(PLAIN, {}, str(path))
    path.write_text("- a list")
    with pytest.raises(BadSetting, match="not a mapping"):
        read(PLAIN, {}, str(path))
    with pytest.raises(BadSetting, match="there is no such file"):
        read(PLAIN, {}, f"{path}-absent")
