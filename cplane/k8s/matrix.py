"""Everybody against everybody: which ends of a scene reach which, for some kinds of traffic."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from cplane.domain.policy.document import did_you_mean
from cplane.domain.policy.explanation import Outcome
from cplane.errors import Rejected
from cplane.k8s.backends import named_port
from cplane.k8s.ports import Asked
from cplane.k8s.probes import ICMP_PROTOCOLS, PROTOCOLS
from cplane.k8s.reach import Answer, Reach
from cplane.k8s.scene import End, Scene

PARTIES_MAX: Final = 600
_WORLDS: Final = {"0.0.0.0/0": "world (IPv4)", "::/0": "world (IPv6)"}


class TooManyParties(Rejected):
    """A matrix that nobody could read."""

    code = "matrix.too_many"

    def __init__(self, count: int) -> None:
        self.count = count

    def __str__(self) -> str:
        return f"{self.count} rows and columns are too many, the limit is {PARTIES_MAX}: name a namespace with -n"


class NoPods(Rejected):
    """A namespace was named that no pod is in."""

    code = "matrix.no_pods"

    def __init__(self, namespace: str, known: Iterable[str]) -> None:
        self.namespace, self.known = namespace, tuple(known)

    def __str__(self) -> str:
        held = f"there are pods of {', '.join(self.known)}" if self.known else "there is no pod in the files"
        return (
            f"no pod of namespace {self.namespace!r} is in the files{did_you_mean(self.namespace, self.known)}; {held}"
        )


class Party(NamedTuple):
    """A row and column: ends with the same policy and identity. `kind` is pod, node or address."""

    name: str
    kind: str
    ends: tuple[End, ...]

    @property
    def members(self) -> tuple[str, ...]:
        """The names of its ends."""
        return tuple(end.name for end in self.ends)


class Cell(NamedTuple):
    """From a row to a column. `mixed`: not of all of their ends, as only a pod's own node is its local host.

    Then `answer` is the worst.
    """

    source: Party
    destination: Party
    answer: Answer
    mixed: bool


def parties(
    scene: Scene, namespaces: Iterable[str] = (), is_audited: Callable[[End], bool] = lambda _: False
) -> tuple[Party, ...]:
    """The rows: pods, then nodes, then prefixes that anything names, and the world. No namespaces: all of them.

    Pods that are audited deny nothing, so they are in rows of their own.

    Raises TooManyParties, NoPods.
    """
    chosen = frozenset(namespaces)
    known = sorted({end.pod.namespace for end in scene.pods.values() if end.pod is not None})
    for name in sorted(chosen.difference(known)):
        raise NoPods(name, known)
    found = [
        *_pods(scene, chosen, is_audited),
        *(Party(end.name, "node", (end,)) for end in scene.nodes.values()),
        *_outside(scene),
    ]
    if len(found) > PARTIES_MAX:
        raise TooManyParties(len(found))
    return tuple(found)


def cells(reach: Reach, rows: tuple[Party, ...], asked: Asked) -> Iterator[Cell | None]:
    """For each row, each column; None where there is no such traffic: outside to outside, or no port of that name."""
    for source in rows:
        for destination in rows:
            yield _cell(reach, source, destination, asked)


def _cell(reach: Reach, source: Party, destination: Party, asked: Asked) -> Cell | None:
    if source.kind == destination.kind == "address":
        return None
    answers = [
        reach.judge(one, other, PROTOCOLS[asked.protocol.upper()], port)
        for one, other in _pairs(source, destination)
        if (port := _port(other, asked)) is not None
    ]
    if not answers:
        return None
    worst = max(answers, key=lambda one: (one.verdict is Outcome.DENIED, one.verdict is Outcome.AUDIT))
    return Cell(source, destination, worst, len({one.verdict for one in answers}) > 1)


def _pairs(source: Party, destination: Party) -> Iterator[tuple[End, End]]:
    """Those that may differ: to a node it matters where a pod is, to anything else it does not."""
    for one in _apart(source) if destination.kind == "node" else source.ends[:1]:
        for other in _apart(destination) if source.kind == "node" else destination.ends[:1]:
            yield one, other


def _apart(party: Party) -> Iterable[End]:
    return {end.node: end for end in party.ends}.values()


def _port(end: End, asked: Asked) -> int | None:
    protocol = PROTOCOLS[asked.protocol.upper()]
    if protocol in ICMP_PROTOCOLS:
        return ICMP_PROTOCOLS[protocol] if asked.icmp_type is None else asked.icmp_type
    return asked.port if isinstance(asked.port, int) else named_port(end, (asked.port or "").lower(), protocol)


def _pods(scene: Scene, chosen: frozenset[str], is_audited: Callable[[End], bool]) -> Iterator[Party]:
    """Pods that obey one policy and look the same to others are one row."""
    groups: dict[tuple[str, int, int, bool], list[End]] = {}
    for end in scene.pods.values():
        pod = end.pod
        if pod is not None and end.host is None and not pod.ended and (not chosen or pod.namespace in chosen):
            key = (pod.namespace, end.subject, id(scene.repository(end)), is_audited(end))
            groups.setdefault(key, []).append(end)
    for _, ends in sorted(groups.items(), key=lambda one: one[1][0].name):
        more = f" (+{len(ends) - 1})" if len(ends) > 1 else ""
        yield Party(f"{ends[0].name}{more}", "pod", tuple(ends))


def _outside(scene: Scene) -> Iterator[Party]:
    written = [prefix for prefix in scene.prefixes if prefix.prefixlen]
    six = any(prefix.version == 6 for prefix in written) or any(
        ":" in address for pod in scene.manifests.pods.values() for address in pod.addresses
    )
    for prefix, end in scene.prefixes.items():
        if prefix.prefixlen:
            yield Party(end.name, "address", (end,))
        elif prefix.version == 4 or six:
            yield Party(_WORLDS[end.name], "address", (end,))
