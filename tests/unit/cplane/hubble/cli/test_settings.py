"""Where a setting comes from."""

import socket
from pathlib import Path

import pytest

from cplane.hubble.cli.failure import Failed
from cplane.hubble.cli.session import open_session
from cplane.hubble.cli.settings import KEYS, Settings, user_file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def settings(file: Path | None = None, given: dict[str, object] | None = None, **environment: str) -> Settings:
    """Settings of that file, those flags, and those variables without their prefix."""
    variables = {f"HUBBLE_{name}": value for name, value in environment.items()}
    if file is not None:
        variables["HUBBLE_CONFIG"] = str(file)
    return Settings(given=given or {}, environment=variables, agent_socket="/no/such.sock")


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(file: Path):
    file.write_text("server: file:1\ntls: true\ntimeout: 7s\n")
    assert settings().text("server") == "localhost:4245"
    assert settings(file).server == "file:1"
    assert settings(file, SERVER="env:1").server == "env:1"
    assert settings(file, {"server": "flag:1"}, SERVER="env:1").server == "flag:1"
    assert settings(file).on("tls")
    assert not settings(file, TLS="false").on("tls")
    assert settings(file, {"tls": False}, TLS="1").on("tls") is False
    assert (settings(file).seconds("timeout"), settings(file).seconds("request-timeout")) == (7.0, 12.0)


def test_an_empty_variable_is_none(file: Path):
    file.write_text("server: file:1\n")
    assert settings(file, SERVER="").server == "file:1"


def test_lists_have_commas_or_spaces_in_text(file: Path):
    file.write_text("tls-ca-cert-files: [a, 'b,c']\n")
    assert settings(file).texts("tls-ca-cert-files") == ["a", "b", "c"]
    assert settings(file, TLS_CA_CERT_FILES="x, y z").texts("tls-ca-cert-files") == ["x", "y", "z"]
    assert settings(file, {"tls-ca-cert-files": ("f,g", "h")}).texts("tls-ca-cert-files") == ["f", "g", "h"]
    assert settings().texts("tls-ca-cert-files") == []


def test_our_own_agent_is_asked_by_default_where_its_socket_is(tmp_path: Path, file: Path):
    path = str(tmp_path / "hubble.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        assert Settings(environment={}, agent_socket=path).server == f"unix://{path}"
        assert Settings(environment={"HUBBLE_SERVER": "x:1"}, agent_socket=path).server == "x:1"
        file.write_text("server: y:1")
        assert Settings(environment={"HUBBLE_CONFIG": str(file)}, agent_socket=path).server == "y:1"
    assert Settings(environment={}, agent_socket=str(tmp_path)).server == "localhost:4245"
    assert Settings(environment={}, agent_socket=f"{path}/below").server == "localhost:4245"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HOME": "/nowhere/a", "XDG_CONFIG_HOME": "/x"}, Path("/x/hubble/config.yaml")),
        ({"HOME": "/h"}, Path("/h/.config/hubble/config.yaml")),
        ({}, None),
    ],
)
def test_the_file_is_in_the_users_configuration_folder(environment: dict[str, str], expected: Path | None):
    assert user_file(environment) == expected
    assert Settings(environment=environment).path == expected


def test_a_file_of_old_is_meant_where_it_is_alone(tmp_path: Path):
    old, usual = tmp_path / ".hubble" / "config.yaml", tmp_path / ".config" / "hubble" / "config.yaml"
    environment = {"HOME": str(tmp_path)}
    old.parent.mkdir()
    old.touch()
    assert user_file(environment) == old
    usual.parent.mkdir(parents=True)
    usual.touch()
    assert user_file(environment) == usual


def test_a_file_that_nobody_named_may_be_missing_and_one_that_was_named_may_not(tmp_path: Path):
    assert Settings(environment={"XDG_CONFIG_HOME": str(tmp_path)}).file == {}
    assert Settings(environment={}).file == {}
    with pytest.raises(Failed, match=r"configuration file .*nothing.yaml: there is no such file"):
        assert settings(tmp_path / "nothing.yaml").file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "it is not a mapping of keys to values"),
        ("a: b: c", "mapping values are not allowed here"),
        ("\xff", "can't decode byte"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(file: Path, text: str, message: str):
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(Failed) as told:
        assert settings(file).file
    assert told.value.message.startswith(f"configuration file {file}: ")
    assert message in told.value.message


def test_an_empty_file_and_keys_of_others_are_fine(file: Path):
    file.write_text("")
    assert settings(file).file == {}
    file.write_text("port-forward: true\nServer: a:1\n")
    assert settings(file).server == "a:1"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"TLS": "maybe"}, "HUBBLE_TLS: 'maybe' is neither true nor false"),
        ({"TIMEOUT": "5"}, "HUBBLE_TIMEOUT: '5' is not a duration such as 5s, 500ms or 1m30s"),
        ({"REQUEST_TIMEOUT": "0s"}, "HUBBLE_REQUEST_TIMEOUT: '0s' is not a duration such as 5s, 500ms or 1m30s"),
        ({"TLS_CLIENT_KEY_FILE": "k"}, "certificate and private key are both required, but only one was provided"),
        ({"TLS_CLIENT_KEY_FILE": "k", "TLS_CLIENT_CERT_FILE": "c"}, "transport layer security required"),
        (
            {"TLS_CLIENT_KEY_FILE": "k", "TLS_CLIENT_CERT_FILE": "c", "TLS": "true"},
            "certificate 'c': No such file or directory",
        ),
        ({"SERVER": "tls://a:1", "TLS_CA_CERT_FILES": "/no.pem"}, "certificate '/no.pem': No such file or directory"),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_its_place(made: dict[str, str], message: str):
    with pytest.raises(Failed) as told:
        open_session(settings(**made))
    assert told.value.message == message


def test_errors_in_a_file_name_the_file_and_the_key(file: Path):
    file.write_text("timeout: [1]\nserver: {a: b}\ntls-ca-cert-files: 7\n")
    for key, get in (
        ("timeout", settings(file).seconds),
        ("server", settings(file).text),
        ("tls-ca-cert-files", settings(file).texts),
    ):
        with pytest.raises(Failed, match=rf"configuration file {file}: {key}: "):
            get(key)


def test_a_session_has_what_the_settings_say():
    session = open_session(settings(SERVER="tls://a:1", TIMEOUT="1s", REQUEST_TIMEOUT="2s", TLS_SERVER_NAME="n"))
    assert (session.server, session.dial_s, session.answer_s, session.server_name) == ("a:1", 1.0, 2.0, "n")
    assert session.tls is not None
    assert session.tls.check_hostname
    assert open_session(settings(SERVER="a:1")).tls is None
    insecure = open_session(settings(SERVER="a:1", TLS="true", TLS_ALLOW_INSECURE="true"))
    assert insecure.tls is not None
    assert not insecure.tls.check_hostname


def test_all_settings_are_shown_as_a_file_holds_them():
    shown = settings(TLS="1", SERVER="a:1").shown()
    assert shown.keys() == KEYS.keys()
    assert (shown["tls"], shown["debug"], shown["server"], shown["timeout"]) == (True, False, "a:1", "5s")
    assert (shown["tls-ca-cert-files"], shown["config"]) == ([], "")
