"""File, environment and flags → AgentConfig.

Flags win over the environment (`CPLANE_HUBBLE_RING_RECORDS`), the environment over the file (`--config`), the
file over defaults. Every error is told at once, each with its key and where the value came from.
"""

import dataclasses
import difflib
import os
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, NamedTuple, TypeVar

import click

from cplane.config.bpf import BpfConfig
from cplane.config.dns import DnsConfig
from cplane.config.model import AgentConfig, BadConfig, Fault, HubbleConfig, LbConfig
from cplane.config.problems import BadText, Bounds, join
from cplane.config.proxy import ProxyConfig
from cplane.config.text import read

PREFIX: Final = "CPLANE_"
# Read by other parts of cplane.
_OTHERS: Final = frozenset({"CPLANE_SERVER", "CPLANE_OUTPUT", "CPLANE_CONFIG", "CPLANE_CNI_SOCKET"})
_SERVICE_LINKS: Final = ("_SERVICE_HOST", "_SERVICE_PORT", "_PORT", "_TCP", "_UDP", "_PROTO", "_ADDR")
_FILE_BOUNDS: Final = Bounds(bytes=1_000_000, values=10_000, depth=8, documents=2)
_TRUE: Final = {"true", "yes", "on", "1"}
_NUMBER: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")
_FALSE: Final = {"false", "no", "off", "0"}

Command = TypeVar("Command", bound=Callable[..., object])


class Key(NamedTuple):
    """One thing that can be told: `hubble.ring_records`, with its kind and its help."""

    name: str
    kind: type[str] | type[int] | type[float] | type[bool] | type[tuple[str, ...]]
    choices: tuple[str, ...]
    help: str
    default: object

    @property
    def variable(self) -> str:
        """The environment variable, `CPLANE_HUBBLE_RING_RECORDS`."""
        return PREFIX + self.name.upper().replace(".", "_")

    @property
    def flag(self) -> str:
        """The flag, `--hubble-ring-records`."""
        return "--" + self.name.replace(".", "-").replace("_", "-")

    @property
    def parameter(self) -> str:
        """What click calls the flag's value."""
        return self.name.replace(".", "_")


Section = type[HubbleConfig | LbConfig | BpfConfig | ProxyConfig | DnsConfig]

_SECTIONS: Final[Mapping[str, Section]] = {
    "hubble": HubbleConfig,
    "lb": LbConfig,
    "bpf": BpfConfig,
    "proxy": ProxyConfig,
    "dns": DnsConfig,
}


def _keys(model: type[AgentConfig] | Section, prefix: str = "") -> Iterator[Key]:
    hints = typing.get_type_hints(model)
    for one in dataclasses.fields(model):
        hint = hints[one.name]
        if not prefix and (section := _SECTIONS.get(one.name)) is not None:
            yield from _keys(section, f"{one.name}.")
            continue
        hint = _without_none(hint)
        choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
        kind = str if choices else typing.get_origin(hint) or hint
        yield Key(prefix + one.name, kind, choices, one.metadata["help"], one.default)


def _without_none(hint: Any) -> Any:  # Any: what typing gives  # noqa: ANN401
    """The type of a value that is given."""
    if typing.get_origin(hint) not in {UnionType, typing.Union}:
        return hint
    (given,) = (one for one in typing.get_args(hint) if one is not type(None))
    return given


KEYS: Final = tuple(_keys(AgentConfig))
_BY_NAME: Final = {key.name: key for key in KEYS}


def agent_options(command: Command) -> Command:
    """The click command takes `--config` and a flag for every key; hand what it gets to `load`."""
    for key in reversed(KEYS):
        shown = f"{key.help} [{key.variable}]"
        if key.kind is bool:
            command = click.option(f"{key.flag}/{key.flag.replace('--', '--no-', 1)}", default=None, help=shown)(
                command
            )
        elif key.choices:
            command = click.option(key.flag, type=click.Choice(key.choices), default=None, help=shown)(command)
        else:
            # numbers arrive as text too, so that all errors can be told at once
            command = click.option(key.flag, type=str, default=None, help=shown)(command)
    where = f"YAML file with any of the keys below [{PREFIX}CONFIG]"
    return click.option("--config", "config", type=click.Path(dir_okay=False), envvar=f"{PREFIX}CONFIG", help=where)(
        command
    )


def load(
    config: str | None = None,
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> AgentConfig:
    """The configuration from the file `config`, `environment` (default: the process's) and click's `flags`.

    `flags` is what a command with `agent_options` gets, without `config`; None values were not given.
    Raises BadConfig with everything that is wrong.
    """
    faults: list[Fault] = []
    values: dict[str, object] = {}
    for source in (
        _from_file(config, faults),
        _from_environment(os.environ if environment is None else environment, faults),
        _from_flags(flags or {}, faults),
    ):
        values.update(source)
    try:
        made = _make(values)
    except BadConfig as bad:
        told = {fault.key for fault in faults}
        faults.extend(fault for fault in bad.errors if fault.key not in told)
    if faults:
        raise BadConfig(tuple(faults))
    return made


def _make(values: Mapping[str, object]) -> AgentConfig:
    sections: dict[str, dict[str, Any]] = {name: {} for name in ("", *_SECTIONS)}  # Any: checked key by key before
    for name, value in values.items():
        section, _, last = name.rpartition(".")
        sections[section][last] = value
    made: dict[str, Any] = {name: kind(**sections[name]) for name, kind in _SECTIONS.items()}  # Any: as above
    return AgentConfig(**made, **sections[""])


def _from_file(path: str | None, faults: list[Fault]) -> dict[str, object]:
    if path is None:
        return {}
    try:
        documents = read(Path(path).read_bytes(), _FILE_BOUNDS)
    except OSError as error:
        faults.append(Fault("config", f"cannot read {path}: {error.strerror or error}"))
        return {}
    except BadText as bad:
        faults.extend(Fault(error.path or "config", f"{error.message} ({path})") for error in bad.errors)
        return {}
    if len(documents) > 1:
        faults.append(Fault("config", f"{path} has {len(documents)} documents; one is read"))
        return {}
    return dict(_entries(documents[0].value, path, faults)) if documents else {}


def _entries(tree: object, path: str, faults: list[Fault]) -> Iterator[tuple[str, object]]:
    if not isinstance(tree, dict):
        faults.append(Fault("config", f"{path} is not a mapping of keys to values"))
        return
    for name, value in _flatten(tree, ""):
        key = _BY_NAME.get(name)
        if key is None:
            faults.append(Fault(name, f"unknown key{_suggest(name, _BY_NAME)} ({path})"))
        elif key.kind is tuple and isinstance(value, str):
            yield name, tuple(value.split())
        elif key.kind is tuple and isinstance(value, list) and all(isinstance(one, str) for one in value):
            yield name, tuple(value)
        elif key.kind is float and isinstance(value, int) and not isinstance(value, bool):
            yield name, float(value)
        elif isinstance(value, key.kind) and not (key.kind is int and isinstance(value, bool)):
            yield name, value
        else:
            faults.append(Fault(name, f"{_kind(key)} is wanted, not {value!r} ({path})"))


def _flatten(tree: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        name = join(prefix, key)
        if name in _SECTIONS and isinstance(value, dict):
            yield from _flatten(value, name)
        else:
            yield name, value


def _from_environment(environment: Mapping[str, str], faults: list[Fault]) -> Iterator[tuple[str, object]]:
    variables = {key.variable: key for key in KEYS}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable in _OTHERS:
            continue
        key = variables.get(variable)
        if key is not None:
            yield from _from_text(key, text, variable, faults)
        elif not variable.endswith(_SERVICE_LINKS):  # Kubernetes puts those into every pod's environment
            faults.append(Fault(variable, f"unknown variable{_suggest(variable, variables)}"))


def _from_flags(flags: Mapping[str, object], faults: list[Fault]) -> Iterator[tuple[str, object]]:
    parameters = {key.parameter: key for key in KEYS}
    for parameter, value in flags.items():
        key = parameters[parameter]
        if isinstance(value, str):
            yield from _from_text(key, value, key.flag, faults)
        elif value is not None:
            yield key.name, value


def _from_text(key: Key, text: str, source: str, faults: list[Fault]) -> Iterator[tuple[str, object]]:
    if key.kind is str:
        yield key.name, text
    elif key.kind is tuple:
        yield key.name, tuple(text.split())
    elif key.kind is int and text.isascii() and text.isdecimal() and len(text) < 20:
        yield key.name, int(text)
    elif key.kind is float and _NUMBER.fullmatch(text):
        yield key.name, float(text)
    elif key.kind is bool and text.lower() in _TRUE | _FALSE:
        yield key.name, text.lower() in _TRUE
    else:
        faults.append(Fault(key.name, f"{_kind(key)} is wanted, not {text!r} ({source})"))


def _kind(key: Key) -> str:
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false", tuple: "a list of texts"}
    return words[key.kind]


def _suggest(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known))}"
