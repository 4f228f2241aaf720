"""Filter flags to FlowFilter messages, with upstream's rules about what goes together.

A filter about either end (`--pod`) needs two messages, one for each end, of which one must match; flags about
one end or about the whole flow stand in both. Where both are equal in the end, one is enough.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from cplane.hubble.cli.failure import Failed
from cplane.hubble.cli.flags import BY_NAME
from cplane.hubble.cli.values import ENDS, WHOLE
from cplane.pb.flow import flow_pb2

# flags of one group exclude each other
_CONFLICTS: Final = (
    ("from-fqdn", "from-ip", "ip", "fqdn", "from-namespace", "namespace", "from-all-namespaces", "all-namespaces"),
    ("from-fqdn", "from-ip", "ip", "fqdn", "from-pod", "pod"),
    ("to-fqdn", "to-ip", "ip", "fqdn", "to-namespace", "namespace", "to-all-namespaces", "all-namespaces"),
    ("to-fqdn", "to-ip", "ip", "fqdn", "to-pod", "pod"),
    *((one, "namespace", "all-namespaces") for one in ("to-pod", "from-pod", "to-service", "from-service")),
    *(
        (one, f"{side}-{one}")
        for one in ("label", "service", "port", "identity", "workload")
        for side in ("from", "to")
    ),
    ("encrypted", "unencrypted"),
)


def flow_filters(given: Iterable[tuple[str, str]]) -> tuple[list[flow_pb2.FlowFilter], list[flow_pb2.FlowFilter]]:
    """Whitelist and blacklist of (flag, value) pairs in their order. Raises Failed."""
    wanted, unwanted = _List(), _List()
    negated = False
    for name, value in given:
        if name == "not":
            if negated:
                raise _invalid(name, value, "consecutive --not statements")
            negated = True
            continue
        try:
            (unwanted if negated else wanted).add(name, value)
        except ValueError as error:
            raise _invalid(name, value, str(error)) from None
        negated = False
    if negated:
        raise Failed("trailing --not found in the arguments")
    return wanted.filters(), unwanted.filters()


def _invalid(name: str, value: str, reason: str) -> Failed:
    quoted = json.dumps(value, ensure_ascii=False)
    return Failed(f'invalid argument {quoted} for "{BY_NAME[name].shown}" flag: {reason}')


class _List:
    """Filters of which one must match: `left` with the source, `right` with the destination of what has two ends."""

    def __init__(self) -> None:
        self._left, self._right = flow_pb2.FlowFilter(), flow_pb2.FlowFilter()
        self._names: set[str] = set()
        self._namespaces: dict[str, list[str]] = {"": [], "from": [], "to": []}  # by side

    def add(self, name: str, value: str) -> None:
        """One more flag. Raises ValueError."""
        self._names.add(name)
        self._check_conflicts()
        side, rest = _side(name)
        if rest in {"namespace", "all-namespaces"}:
            self._namespaces[side].append("" if rest == "all-namespaces" else value)
        elif rest in ENDS:
            field, parse = ENDS[rest]
            parsed = parse(value)
            for message, end in self._ends(side):
                getattr(message, f"{end}_{field}").append(parsed)
        elif name == "cel-expression":
            for message in (self._left, self._right):
                message.experimental.cel_expression.append(value)
        else:
            field, parse = WHOLE[name]
            parsed = parse(value)
            for message in (self._left, self._right):
                getattr(message, field).append(parsed)
        self._check_namespaces()

    def filters(self) -> list[flow_pb2.FlowFilter]:
        """The messages; none when there was no flag."""
        if not self._names:
            return []
        for side, namespaces in self._namespaces.items():
            for message, end in self._ends(side):
                if namespaces:
                    _apply(message, end, namespaces)
        return [self._left] if self._left == self._right else [self._left, self._right]

    def _ends(self, side: str) -> Iterator[tuple[flow_pb2.FlowFilter, str]]:
        """Where a flag of that side stands: a message, and which of its ends."""
        yield self._left, "destination" if side == "to" else "source"
        yield self._right, "source" if side == "from" else "destination"

    def _check_conflicts(self) -> None:
        for group in _CONFLICTS:
            found = [flag for flag in group if flag in self._names]
            if len(found) > 1:
                raise ValueError(f"filters --{found[0]} and --{found[1]} cannot be combined")

    def _check_namespaces(self) -> None:
        """Names say no other namespace than the flags for it, or than each other."""
        wrong: dict[str, None] = {}
        for message in (self._left, self._right):
            for end, side in (("source", "from"), ("destination", "to")):
                pods, services = _names(message, end, "pod"), _names(message, end, "service")
                for namespace in (*self._namespaces[""], *self._namespaces[side]):
                    for name in (*pods, *services):
                        if _namespace(name) not in {"", namespace}:
                            wrong[f'namespace conflict: "{namespace}" does not contain "{name}"'] = None
                for pod in filter(_namespace, pods):
                    for service in services:
                        if _namespace(service) != _namespace(pod):
                            wrong[f'namespace of service "{service}" conflict with pod "{_namespace(pod)}"'] = None
        if wrong:
            raise ValueError("\n".join(wrong))


def _side(name: str) -> tuple[str, str]:
    """`from`, `to` or nothing, and the rest of the flag."""
    for side in ("from", "to"):
        if name.startswith(f"{side}-"):
            return side, name.removeprefix(f"{side}-")
    return "", name


def _names(message: flow_pb2.FlowFilter, end: str, what: str) -> Sequence[str]:
    names: Sequence[str] = getattr(message, f"{end}_{what}")
    return names


def _namespace(name: str) -> str:
    namespace, slash, _ = name.partition("/")
    return namespace if slash else ""


def _apply(message: flow_pb2.FlowFilter, end: str, namespaces: Sequence[str]) -> None:
    """Pods and services without a namespace have these; without either, all pods of them are meant."""
    pods, services = _names(message, end, "pod"), _names(message, end, "service")
    named = {"pod": pods if pods or services else [""], "service": services}
    for what, names in named.items():
        full = [each for name in names for each in ([name] if "/" in name else [f"{one}/{name}" for one in namespaces])]
        message.ClearField(f"{end}_{what}")
        getattr(message, f"{end}_{what}").extend(full)
