"""Which metrics are wanted of flows, in upstream's words: `drop:sourceContext=pod;destinationContext=pod|dns`."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cplane.errors import Rejected

CONTEXTS: Final = (
    "identity",
    "namespace",
    "pod",
    "pod-name",
    "dns",
    "ip",
    "reserved-identity",
    "workload",
    "workload-name",
    "app",
)
DIRECTION_LABEL: Final = "traffic_direction"
_END_LABELS: Final = ("ip", "pod", "namespace", "workload", "workload_kind", "app")
LABELS: Final = (
    *(f"{side}_{what}" for side in ("source", "destination") for what in _END_LABELS),
    DIRECTION_LABEL,
)
OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "dns": frozenset({"query", "ignoreAAAA"}),
    "drop": frozenset(),
    "flow": frozenset(),
    "flows-to-world": frozenset({"any-drop", "port", "syn-only"}),
    "http": frozenset(),
    "httpV2": frozenset({"exemplars"}),  # of traces, which no flow has: it asks for nothing
    "icmp": frozenset(),
    "kafka": frozenset(),
    "policy": frozenset(),
    "port-distribution": frozenset(),
    "tcp": frozenset(),
}
_CONTEXT_FIELDS: Final[Mapping[str, str]] = {
    "sourceContext": "source",
    "sourceIngressContext": "source_ingress",
    "sourceEgressContext": "source_egress",
    "destinationContext": "destination",
    "destinationIngressContext": "destination_ingress",
    "destinationEgressContext": "destination_egress",
}


class BadMetric(Rejected):
    """A metric is not one that can be had."""

    code = "config.bad_metric"

    def __init__(self, text: str, reason: str) -> None:
        self.text, self.reason = text, reason

    def __str__(self) -> str:
        return f"{self.text!r}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Contexts:
    """What stands in the labels `source` and `destination`: the first of the contexts that knows something.

    Those of ingress and egress go before for flows of that direction. `labels` are further labels.
    """

    source: tuple[str, ...] = ()
    source_ingress: tuple[str, ...] = ()
    source_egress: tuple[str, ...] = ()
    destination: tuple[str, ...] = ()
    destination_ingress: tuple[str, ...] = ()
    destination_egress: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WantedMetric:
    """One metric with its options."""

    name: str
    options: frozenset[str] = frozenset()
    contexts: Contexts = field(default_factory=Contexts)


def parse_metric(text: str) -> WantedMetric:
    """`name`, or `name:option;option=value|value`. Raises BadMetric."""
    name, _, rest = text.partition(":")
    if name not in OPTIONS:
        raise BadMetric(text, f"there is no metric {name!r}{_suggest(name, OPTIONS)}")
    options: set[str] = set()
    contexts = Contexts()
    for option in filter(None, rest.split(";")):
        key, _, value = option.partition("=")
        if key in OPTIONS[name] and value in {"", "true"}:
            options.add(key)
        elif key == "labelsContext":
            contexts = replace(contexts, labels=_values(text, value.replace(",", "|"), LABELS, "a label"))
        elif key in _CONTEXT_FIELDS:
            contexts = replace(contexts, **{_CONTEXT_FIELDS[key]: _values(text, value, CONTEXTS, "a context")})
        else:
            known = (*OPTIONS[name], *_CONTEXT_FIELDS, "labelsContext")
            raise BadMetric(text, f"there is no option {option!r}{_suggest(key, known)}")
    return WantedMetric(name, frozenset(options), contexts)


def parse_metrics(texts: Iterable[str]) -> tuple[WantedMetric, ...]:
    """Every metric of a list. Raises BadMetric, also for one that is there twice."""
    found: dict[str, WantedMetric] = {}
    for text in texts:
        wanted = parse_metric(text)
        if wanted.name in found:
            raise BadMetric(text, f"{wanted.name} is there twice")
        found[wanted.name] = wanted
    if "http" in found and "httpV2" in found:
        raise BadMetric("httpV2", "it counts under the names of http: choose one of them")
    return tuple(found.values())


def _values(text: str, value: str, known: Sequence[str], what: str) -> tuple[str, ...]:
    values = tuple(value.split("|"))
    for one in values:
        if one not in known:
            raise BadMetric(text, f"{one!r} is not {what}{_suggest(one, known)}")
    return tuple(dict.fromkeys(values))


def _suggest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(names)}"
