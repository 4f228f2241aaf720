"""What a command goes by: flags, before `HUBBLE_…` variables, before the configuration file, before defaults."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

from cplane.hubble.cli.failure import Failed
from cplane.hubble.cli.times import NS, parse_duration

DEFAULT_SERVER: Final = "localhost:4245"
AGENT_SOCKET: Final = "/run/cplane/hubble.sock"
_PORT_MAX: Final = 65_535
_TRUE: Final = frozenset({"1", "t", "true"})
_FALSE: Final = frozenset({"0", "f", "false"})


class Key(NamedTuple):
    """A setting; `kind` is text, bool, duration, number or list."""

    kind: str
    default: str
    help: str
    short: str = ""


GLOBAL_KEYS: Final[Mapping[str, Key]] = {
    "config": Key("text", "", "Configuration file  [default: hubble/config.yaml in the user's configuration folder]"),
    "debug": Key("bool", "false", "Tell on standard error what is done, and every change of a node's state.", "-D"),
}
SERVER_KEYS: Final[Mapping[str, Key]] = {
    "server": Key(
        "text",
        DEFAULT_SERVER,
        "Server to ask: unix:///PATH, HOST:PORT or tls://HOST:PORT.  "
        f"[default: unix://{AGENT_SOCKET} where there is such a socket, else {DEFAULT_SERVER}]",
    ),
    "timeout": Key("duration", "5s", "Time to reach the server."),
    "request-timeout": Key("duration", "12s", "Time for an answer that is no stream: status, namespaces."),
    "tls": Key("bool", "false", "Use TLS; tls:// before the address means the same."),
    "tls-allow-insecure": Key(
        "bool", "false", "Take any certificate of the server: whoever is between can read along."
    ),
    "tls-ca-cert-files": Key("list", "", "PEM files of authorities to trust, instead of the system's."),
    "tls-client-cert-file": Key("text", "", "PEM file with our certificate."),
    "tls-client-key-file": Key("text", "", "PEM file with its key."),
    "tls-server-name": Key(
        "text", "", "Name that the server's certificate must have, e.g. instance.hubble-relay.cilium.io."
    ),
    "basic-auth-username": Key("text", "", "Name for servers that want one; with TLS only."),
    "basic-auth-password": Key("text", "", "Password for it; HUBBLE_BASIC_AUTH_PASSWORD does not show in lists."),
    "port-forward": Key("bool", "false", "Ask the relay of a Kubernetes cluster, by kubectl port-forward.", "-P"),
    "port-forward-port": Key("number", "4245", "Local port for that; 0 is any that is free."),
    "kube-context": Key("text", "", "Context of kubectl, in place of the current one."),
    "kube-namespace": Key("text", "kube-system", "Namespace of the relay."),
    "kubeconfig": Key("text", "", "Configuration file of kubectl."),
}
KEYS: Final[Mapping[str, Key]] = {**GLOBAL_KEYS, **SERVER_KEYS}
FILTER_KEYS: Final = ("allowlist", "denylist")  # read from everywhere too, and not shown by `config`


class Setting(NamedTuple):
    """A value, and what errors call the place where it stands."""

    value: object
    place: str


def variable(key: str) -> str:
    """The environment variable of a key."""
    return f"HUBBLE_{key.upper().replace('-', '_')}"


def user_file(environment: Mapping[str, str]) -> Path | None:
    """The configuration file that is meant where none is named; None: the user has no home.

    The one in `~/.hubble` is of old, and meant where it is alone. Upstream's command would take `config.yaml` from the
    working directory before both, which may be anybody's.
    """
    home = environment.get("HOME", "")
    folder = environment.get("XDG_CONFIG_HOME", "") or (f"{home}/.config" if home else "")
    if not folder:
        return None
    usual, old = Path(folder, "hubble", "config.yaml"), Path(home, ".hubble", "config.yaml")
    return old if home and _is_file(old) and not _is_file(usual) else usual


def read_file(path: Path) -> dict[str, object]:
    """What a configuration file says. Raises Failed, and FileNotFoundError."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Failed(f"configuration file {path}: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise Failed(f"configuration file {path}: it is not a mapping of keys to values")
    return {str(key).lower(): value for key, value in content.items()}


@dataclass
class Settings:
    """The settings of one run. `given` holds flags: a list for lists, otherwise one value."""

    given: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    agent_socket: str = AGENT_SOCKET

    @property
    def path(self) -> Path | None:
        """The configuration file, whether it is there or not."""
        named = str(self.given.get("config", "") or self.environment.get(variable("config"), ""))
        return Path(named) if named else user_file(self.environment)

    @property
    def file_is_named(self) -> bool:
        """Whether the user said which file."""
        return bool(self.given.get("config") or self.environment.get(variable("config")))

    @cached_property
    def file(self) -> Mapping[str, object]:
        """What the configuration file says; nothing where there is none and none was named."""
        if self.path is None:
            return {}
        try:
            return read_file(self.path)
        except FileNotFoundError:
            if self.file_is_named:
                raise Failed(f"configuration file {self.path}: there is no such file") from None
            return {}

    def find(self, key: str) -> Setting | None:
        """Where a key was set first; None: nowhere."""
        if key in self.given:
            return Setting(self.given[key], f"--{key}")
        name = variable(key)
        if self.environment.get(name):
            return Setting(self.environment[name], name)
        if key != "config" and self.file.get(key) is not None:
            return Setting(self.file[key], f"configuration file {self.path}: {key}")
        return None

    def text(self, key: str) -> str:
        """A setting that is text."""
        found = self.find(key)
        if found is None:
            return str(self.path or "") if key == "config" else KEYS[key].default
        if isinstance(found.value, list | dict):
            raise Failed(f"{found.place}: it must be one value")
        return str(found.value)

    def on(self, key: str) -> bool:
        """A setting that is on or off."""
        found = self.find(key)
        word = str(found.value).lower() if found is not None else KEYS[key].default
        if found is not None and word not in _TRUE | _FALSE:
            raise Failed(f"{found.place}: {str(found.value)!r} is neither true nor false")
        return word in _TRUE

    def seconds(self, key: str) -> float:
        """A setting that is a duration, in seconds."""
        found = self.find(key)
        text = KEYS[key].default if found is None else str(found.value)
        duration = parse_duration(text)
        if duration is None or duration <= 0:
            place = found.place if found is not None else key
            raise Failed(f"{place}: {text!r} is not a duration such as 5s, 500ms or 1m30s")
        return duration / NS

    def port(self, key: str) -> int:
        """A setting that is a port, or 0."""
        found = self.find(key)
        text = KEYS[key].default if found is None else str(found.value)
        if not (text.isascii() and text.isdecimal() and int(text) <= _PORT_MAX):
            raise Failed(f"{found.place if found else key}: {text!r} is not a port (0 to {_PORT_MAX})")
        return int(text)

    def texts(self, key: str, *, commas: bool = True) -> list[str]:
        """A setting that is a list; a text stands for one, with commas or spaces in between where there are several."""
        found = self.find(key)
        if found is None:
            return []
        if isinstance(found.value, str):
            return found.value.replace(",", " ").split() if commas else [found.value]
        if not isinstance(found.value, list | tuple):
            raise Failed(f"{found.place}: it must be a list")
        values = [str(value) for value in found.value]
        return [part for value in values for part in value.split(",") if part] if commas else values

    def value(self, key: str) -> str | bool | list[str]:
        """A setting as a configuration file holds it. Raises Failed for what it cannot be."""
        match KEYS[key].kind:
            case "bool":
                return self.on(key)
            case "list":
                return self.texts(key)
            case "number":
                self.port(key)
            case "duration":
                self.seconds(key)
        return self.server if key == "server" else self.text(key)

    def shown(self) -> dict[str, str | bool | list[str]]:
        """All settings, wherever they come from."""
        return {key: self.value(key) for key in KEYS}

    @property
    def server(self) -> str:
        """Whom to ask: by default our own agent where it runs, and upstream's default elsewhere."""
        if self.find("server") is None and _is_socket(self.agent_socket):
            return f"unix://{self.agent_socket}"
        return self.text("server")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _is_socket(path: str) -> bool:
    """Whether there is a socket; one in a folder that we may not look into is not there for us."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
