"""What was wanted: every object of a world by its name, as people would write it, and what two worlds differ in."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import unified_diff
from typing import Any, Final

import msgspec
import yaml

from cplane.deciders.config import Options
from cplane.deciders.servicestate import ServiceState
from cplane.deciders.world import World
from cplane.domain.endpoint import Endpoint
from cplane.domain.service import ServiceName
from cplane.events.envelope import Envelope
from cplane.events.objects import KINDS, OPTIONS, SERVICE_OPTIONS, object_of, policy_name, service_name
from cplane.events.summary import summary

Written = Mapping[str, Any]  # Any: an object as JSON has it
"""An object, as it is or would be written down."""

_KEPT: Final = 10  # of the events that changed an object, the last


class Author(msgspec.Struct, frozen=True, kw_only=True):
    """An event that changed something, and who asked for it. `recorded_at_ns` is UTC; `cause` may be empty."""

    position: int
    recorded_at_ns: int
    actor: str
    cause: str
    summary: str

    @classmethod
    def of(cls, entry: Envelope) -> "Author":
        """That of an event of the log."""
        return cls(
            position=entry.position,
            recorded_at_ns=entry.recorded_at_ns,
            actor=entry.actor,
            cause=entry.cause,
            summary=summary(entry.event),
        )


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one object. `action` is `added`, `changed` or `removed`; `detail` says of endpoints which pod.

    `before` and `after` are the object as JSON, null where it was not there; `diff` is between the two as YAML, line by
    line. `events` are the last ones that changed it, `more` counts those before them.
    """

    object: str
    action: str
    detail: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    diff: str
    events: tuple[Author, ...] = ()
    more: int = 0


def written(world: World) -> dict[str, Written]:
    """Every object of the world by its name. Addresses that are taken are in none: endpoints have them."""
    found: dict[str, Written] = {
        policy_name(*ref): json.loads(document) for ref, document in world.policy.documents.items()
    }
    found |= {f"endpoint {number}": _endpoint(one) for number, one in world.endpoints.items()}
    found |= {f"identity {number}": {"labels": [*labels.texts()]} for number, labels in world.identities.items()}
    found |= {f"pool {name}": {"cidr": pool.cidr, "reserved": [*pool.reserved]} for name, pool in world.pools.items()}
    if world.node is not None:
        node = {name: getattr(world.node, name) for name in world.node.__dataclass_fields__}
        found[f"node {world.node.name}"] = node | {"addresses": [*world.node.addresses]}
    found[OPTIONS] = _options(world.options)
    found |= {service_name(*name): _service(world.service, name) for name in world.service.names()}
    keys = {number: key for key, number in world.service.backends_by_key.items()}
    found |= {
        f"backend {number}": {"backend": str(keys[number]), "state": state.value}
        for number, state in world.service.states.items()
    }
    found[SERVICE_OPTIONS] = msgspec.to_builtins(world.service.options)
    return found


def compare(before: World, after: World, kinds: Iterable[str] = KINDS) -> list[Change]:
    """What the worlds differ in, by kind and name; without the events that did it."""
    old, new = written(before), written(after)
    wanted = set(kinds)
    names = (name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return [_change(name, old.get(name), new.get(name)) for name in sorted(names, key=order) if kind_of(name) in wanted]


def with_authors(changes: Sequence[Change], entries: Iterable[Envelope]) -> Iterator[Change]:
    """The changes with the events that made them, which are among `entries`, in order."""
    found: dict[str, list[Envelope]] = {one.object: [] for one in changes}
    counts = dict.fromkeys(found, 0)
    for entry in entries:
        name = object_of(entry.event)
        if name in found:
            counts[name] += 1
            found[name] = [*found[name][1 - _KEPT :], entry]
    for one in changes:
        authors = tuple(map(Author.of, found[one.object]))
        yield msgspec.structs.replace(one, events=authors, more=counts[one.object] - len(authors))


def kind_of(name: str) -> str:
    """The first word of an object's name."""
    return name.partition(" ")[0]


def order(name: str) -> tuple[int, int, str]:
    """Sorts names of objects: by kind, numbers by their value."""
    kind, _, rest = name.partition(" ")
    return KINDS.index(kind), int(rest) if rest.isdigit() else 0, rest


def yaml_of(value: Written | None) -> str:
    """The object as people write it; empty where there is none."""
    if value is None:
        return ""
    text: str = yaml.dump(dict(value), Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)
    return text


def yaml_diff(before: Written | None, after: Written | None, old: str = "before", new: str = "after") -> str:
    """A unified diff of the object as YAML, without a line break at its end; empty where nothing differs."""
    lines = unified_diff(yaml_of(before).splitlines(), yaml_of(after).splitlines(), old, new, lineterm="")
    return "\n".join(lines)


def _change(name: str, before: Written | None, after: Written | None) -> Change:
    action = "added" if before is None else "removed" if after is None else "changed"
    shown = after or before or {}
    return Change(
        object=name,
        action=action,
        detail=shown.get("pod", "") if kind_of(name) == "endpoint" else "",
        before=None if before is None else dict(before),
        after=None if after is None else dict(after),
        diff=yaml_diff(before, after),
    )


def named(one: Endpoint) -> str:
    """What people know an endpoint by."""
    return f"{one.namespace}/{one.pod}" if one.pod else one.container_id[:12]


def _endpoint(one: Endpoint) -> Written:
    """What people know an endpoint by, and what of it can change."""
    return {
        "pod": named(one),
        "container": one.container_id,
        "interface": one.host_interface,
        "ipv4": one.ipv4,
        "ipv6": one.ipv6,
        "identity": int(one.identity),
        "policy": one.policy_id,
        "policy_audit": one.audit,
        "named_ports": [*one.named_ports],
        "labels": [*one.labels.texts()],
    }


def _options(options: Options) -> Written:
    return {"policy_enforcement": str(options.policy_enforcement), "policy_audit": options.policy_audit}


def _service(state: ServiceState, name: ServiceName) -> Written:
    """What is said of it, without what is as it is by default; backends by who names them."""
    held = state.services.get(name)
    said: dict[str, Any] = {}
    if held is not None:
        said = {key: value for key, value in msgspec.to_builtins(held).items() if key not in {"namespace", "name"}}
    sources = state.sources.get(name)
    if sources:
        said["backends"] = {source: msgspec.to_builtins(sources[source]) for source in sorted(sources)}
    return said
