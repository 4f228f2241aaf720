"""What a relay goes by: flags, before `RELAY_…` variables, before its configuration file, before defaults.

Keys and defaults are upstream's. The configuration file is the one that Helm makes: a key without a value there means
the default, and keys of upstream's that have no meaning here are passed over with a warning.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from cplane.errors import CplaneError, Rejected
from cplane.hubble.cli.times import NS, parse_duration
from cplane.hubble.relay.directory import DEFAULT_CLUSTER
from cplane.telemetry.log import Format, Level
from cplane.transport.address import TcpAddress, UnixAddress, split_host_port

W = TypeVar("W")

CONFIG_FILE: Final = "/etc/hubble-relay/config.yaml"
PEER_SERVICE: Final = "unix:///var/run/cilium/hubble.sock"
_WINDOW_MAX: Final = 1_000_000
_TRUE: Final = frozenset({"1", "t", "true"})
_FALSE: Final = frozenset({"0", "f", "false"})
_LEVELS: Final[Mapping[str, Level]] = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "warn": "warning",
    "error": "error",
}
_FORMATS: Final[Mapping[str, Format]] = {"text": "text", "text-ts": "text", "json": "json", "json-ts": "json"}


class BadSetting(Rejected):
    """A setting cannot be used."""

    code = "relay.bad_setting"

    def __init__(self, place: str, reason: str) -> None:
        self.place, self.reason = place, reason

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class Key(NamedTuple):
    """A setting; `kind` is text, bool, duration or number. `old` are names that it had."""

    kind: str
    default: str
    help: str
    old: tuple[str, ...] = ()


KEYS: Final[Mapping[str, Key]] = {
    "peer-service": Key("text", PEER_SERVICE, "Address of the peer service: unix:///PATH or HOST:PORT."),
    "cluster-name": Key("text", DEFAULT_CLUSTER, "Cluster of the nodes, which is part of what certificates are for."),
    "listen-address": Key("text", ":4245", "Where clients are served: HOST:PORT, :PORT or unix:///PATH."),
    "health-listen-address": Key("text", ":4222", "Where the health service is served to probes; - serves none."),
    "dial-timeout": Key("duration", "5s", "Time for a connection to a node, and for its answers."),
    "retry-timeout": Key("duration", "30s", "The longest pause before a node is dialled again."),
    "sort-buffer-len-max": Key(
        "number", "100", "Messages that may wait for a node which has none, while flows are followed."
    ),
    "sort-buffer-drain-timeout": Key("duration", "1s", "The longest wait for a node which has none."),
    "disable-client-tls": Key("bool", "false", "Speak plaintext to the nodes."),
    "tls-hubble-client-cert-file": Key(
        "text", "", "PEM file with our certificate for nodes.", ("tls-client-cert-file",)
    ),
    "tls-hubble-client-key-file": Key("text", "", "PEM file with its key.", ("tls-client-key-file",)),
    "tls-hubble-server-ca-files": Key("text", "", "PEM files of the authorities of the nodes' certificates."),
    "disable-server-tls": Key("bool", "false", "Speak plaintext to clients."),
    "tls-relay-server-cert-file": Key(
        "text", "", "PEM file with our certificate for clients.", ("tls-server-cert-file",)
    ),
    "tls-relay-server-key-file": Key("text", "", "PEM file with its key.", ("tls-server-key-file",)),
    "tls-relay-client-ca-files": Key("text", "", "PEM file of the authority of the clients' certificates."),
    "log-level": Key("text", "info", "debug, info, warning or error."),
    "log-format": Key("text", "text", "text or json."),
    "debug": Key("bool", "false", "Log what is done."),
}
_MEANINGLESS: Final = frozenset({
    *("gops", "gops-port", "pprof", "pprof-address", "pprof-port", "pprof-mutex-profile-fraction"),
    *("pprof-block-profile-rate", "log-opt"),
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A relay's settings. Times are seconds; addresses of files are empty where there are none."""

    peer_service: str
    cluster: str
    listen: UnixAddress | TcpAddress
    health: UnixAddress | TcpAddress | None
    dial_s: float
    retry_s: float
    window: int
    drain_s: float
    client_tls: bool
    client_certificate: str
    client_key: str
    server_authorities: tuple[str, ...]
    server_tls: bool
    server_certificate: str
    server_key: str
    client_authority: str
    log_level: Level
    log_format: Format
    warnings: tuple[str, ...] = ()


@dataclass
class _Source:
    """Where settings are looked for. `flags` holds those that were given."""

    flags: Mapping[str, str]
    environment: Mapping[str, str]
    file: Mapping[str, object]
    path: str
    places: dict[str, str] = field(default_factory=dict)

    def find(self, key: str) -> str:
        """The first value that was set, or the default."""
        if key in self.flags:
            self.places[key] = f"--{key}"
            return self.flags[key]
        for name in (key, *KEYS[key].old):
            variable = f"RELAY_{name.upper().replace('-', '_')}"
            if self.environment.get(variable):
                self.places[key] = variable
                return self.environment[variable]
            value = self.file.get(name)
            if value is not None and value != "":
                self.places[key] = f"{self.path}: {name}"
                if isinstance(value, list):
                    return ",".join(map(str, value))
                return str(value)
        self.places[key] = f"--{key}"
        return KEYS[key].default

    def bad(self, key: str, reason: str) -> BadSetting:
        """The error that says so of the key, where it stands."""
        return BadSetting(self.places.get(key, f"--{key}"), reason)

    def on(self, key: str) -> bool:
        """A setting that is on or off."""
        word = self.find(key).lower()
        if word not in _TRUE | _FALSE:
            raise self.bad(key, f"{word!r} is neither true nor false")
        return word in _TRUE

    def seconds(self, key: str) -> float:
        """A duration."""
        text = self.find(key)
        found = parse_duration(text)
        if found is None or found <= 0:
            raise self.bad(key, f"{text!r} is not a duration such as 5s, 500ms or 1m30s")
        return found / NS

    def number(self, key: str) -> int:
        """A number of messages."""
        text = self.find(key)
        if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= _WINDOW_MAX):
            raise self.bad(key, f"{text!r} is not a number from 1 to {_WINDOW_MAX}")
        return int(text)

    def listen(self, key: str) -> UnixAddress | TcpAddress:
        """Where to listen."""
        text = self.find(key)
        try:
            for prefix in ("unix://", "unix:"):
                if text.startswith(prefix):
                    return UnixAddress(text.removeprefix(prefix))
            return TcpAddress(*split_host_port(text))
        except CplaneError as error:
            raise self.bad(key, str(error)) from None

    def one_of(self, key: str, words: Mapping[str, W]) -> W:
        """A setting that is one of these words; what it means."""
        text = self.find(key).lower()
        if text not in words:
            raise self.bad(key, f"{text!r} is not one of {', '.join(words)}")
        return words[text]


def read(flags: Mapping[str, str], environment: Mapping[str, str], path: str = CONFIG_FILE) -> Settings:
    """The settings that these say. Raises BadSetting."""
    file = _file(path, named=path != CONFIG_FILE)
    source = _Source(flags, environment, file, path)
    known = {name for key, value in KEYS.items() for name in (key, *value.old)}
    strange = sorted(set(file) - known)
    health = source.find("health-listen-address")
    settings = Settings(
        peer_service=source.find("peer-service"),
        cluster=source.find("cluster-name"),
        listen=source.listen("listen-address"),
        health=None if health == "-" else source.listen("health-listen-address"),
        dial_s=source.seconds("dial-timeout"),
        retry_s=source.seconds("retry-timeout"),
        window=source.number("sort-buffer-len-max"),
        drain_s=source.seconds("sort-buffer-drain-timeout"),
        client_tls=not source.on("disable-client-tls"),
        client_certificate=source.find("tls-hubble-client-cert-file"),
        client_key=source.find("tls-hubble-client-key-file"),
        server_authorities=tuple(source.find("tls-hubble-server-ca-files").replace(",", " ").split()),
        server_tls=not source.on("disable-server-tls"),
        server_certificate=source.find("tls-relay-server-cert-file"),
        server_key=source.find("tls-relay-server-key-file"),
        client_authority=source.find("tls-relay-client-ca-files"),
        log_level="debug" if source.on("debug") else source.one_of("log-level", _LEVELS),
        log_format=source.one_of("log-format", _FORMATS),
        warnings=tuple(
            f"{path}: {name}: {'it has no meaning here' if name in _MEANINGLESS else 'there is no such key'}"
            for name in strange
        ),
    )
    _check(settings, source.bad)
    return settings


def _check(settings: Settings, bad: Callable[[str, str], BadSetting]) -> None:
    """What must be there together. Raises BadSetting."""
    if settings.client_tls and not settings.server_authorities:
        raise bad(
            "tls-hubble-server-ca-files", "it is needed to know the nodes; or say --disable-client-tls for plaintext"
        )
    if bool(settings.client_certificate) != bool(settings.client_key):
        raise bad("tls-hubble-client-cert-file", "the certificate and tls-hubble-client-key-file are needed together")
    if settings.server_tls and not (settings.server_certificate and settings.server_key):
        raise bad(
            "tls-relay-server-cert-file",
            "it and tls-relay-server-key-file are needed; or say --disable-server-tls for plaintext",
        )
    if "," in settings.client_authority:
        raise bad("tls-relay-client-ca-files", "one file is taken; it may hold several certificates")


def _file(path: str, *, named: bool) -> dict[str, object]:
    """What the configuration file says; nothing where the default one is not there. Raises BadSetting."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        if named:
            raise BadSetting(path, "there is no such file") from None
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadSetting(path, str(error)) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise BadSetting(path, "it is not a mapping of keys to values")
    return {str(key).lower(): value for key, value in content.items()}
