"""Who reaches whom in a scene: both ends are asked, as the agents of both would judge.

What the source's policy does not let out, or the destination's does not let in, is denied. An end outside the cluster
has no policy that anybody here could know.
"""

from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from cplane.domain.policy.document import did_you_mean
from cplane.domain.policy.edges import port_edges
from cplane.domain.policy.explanation import Explanation, Outcome, Traffic
from cplane.domain.policy.redirect import Request
from cplane.domain.policy.why import Case, Judge
from cplane.domain.ports import Protocol
from cplane.domain.verdict import Direction
from cplane.k8s.backends import Target, backends, named_port, service_named
from cplane.k8s.probes import BadProbe, Probe
from cplane.k8s.scene import End, Scene
from cplane.k8s.services import Service

ALL: Final = "all"
_CASES_MAX: Final = 500_000  # kept; beyond, all are forgotten and found again
_ADDRESSES_MAX: Final = 100_000
_ANSWERS_MAX: Final = 200_000
_NODE: Final = "node/"
_SERVICE: Final = "svc:"
_RANK: Final = {Outcome.ALLOWED: 0, Outcome.AUDIT: 1, Outcome.DENIED: 2}
_ITSELF: Final = Case(Explanation(Outcome.ALLOWED, "an end and itself: no policy is asked"))


@dataclass(frozen=True, eq=False, slots=True)
class Answer:
    """Both sides, and what follows from them. `l7`: a proxy gave the verdict or, without a request, would have to.

    Compared by identity: whoever asks the same again gets the same one.
    """

    verdict: Outcome
    l7: bool
    egress: Explanation
    ingress: Explanation


class Route(NamedTuple):
    """The cases of both ends for one way that traffic may take; `backend` says which, if it is one of several."""

    egress: Case
    ingress: Case
    backend: str = ""

    @property
    def depends_on_requests(self) -> bool:
        """Whether what is asked can make a difference."""
        return self.egress.depends_on_requests or self.ingress.depends_on_requests

    def answer(self, request: Request | None) -> Answer:
        """What both ends say, and what follows."""
        egress, ingress = self.egress.explain(request), self.ingress.explain(request)
        verdict = egress.verdict if _RANK[egress.verdict] > _RANK[ingress.verdict] else ingress.verdict
        if verdict is Outcome.DENIED:  # what is dropped as a packet never meets a proxy
            l7 = all(one.l7 for one in (egress, ingress) if one.verdict is verdict)
        else:
            l7 = egress.l7 or ingress.l7
        return Answer(verdict, l7, self._named(egress), self._named(ingress))

    def _named(self, one: Explanation) -> Explanation:
        if not self.backend or one.verdict is Outcome.ALLOWED:
            return one
        return replace(one, reason=f"backend {self.backend}: {one.reason}")


_UNASKED: Final = Route(_ITSELF, _ITSELF)


class Reach:
    """Answers questions about a scene, and keeps what it found. `audited`: pods that deny nothing, or `all`."""

    def __init__(self, scene: Scene, audited: Collection[str] = ()) -> None:
        self._scene = scene
        self._audited = frozenset(_endpoint(scene.pods[name]) if name in scene.pods else name for name in audited)
        self._services = {a: one for one in scene.manifests.services.values() for a in one.addresses}
        self._edges: dict[tuple[int, int, Direction, int], tuple[int, ...]] = {}
        self._judges: dict[int, Judge] = {}  # by their repositories, which the scene keeps
        self._cases: dict[tuple[int, ...], Case] = {}
        self._outside: dict[str, End] = {}
        self._kept: dict[tuple[str, str, str, int | str | None, int | None], tuple[tuple[Route, ...], Answer]] = {}

    def answer(self, probe: Probe) -> Answer:
        """The answer to a probe. Raises BadProbe where there is none.

        Of several backends of a service the worst verdict counts, as a connection may go to any of them.
        """
        request = probe.request
        key = (probe.from_, probe.to, probe.protocol, probe.port, probe.icmp_type)
        kept = self._kept.get(key)
        if kept is None:
            routes = self._routes(probe)
            kept = routes, _worst(routes, None, probe)
            if len(self._kept) >= _ANSWERS_MAX:
                self._kept.clear()
            self._kept[key] = kept
        routes, packets = kept
        if request is None or not any(one.depends_on_requests for one in routes):
            return packets
        return _worst(routes, request, probe)

    def judge(self, source: End, destination: End, protocol: int, port: int) -> Answer:
        """The verdict of both ends on packets between them."""
        return self._route(source, destination, protocol, port).answer(None)

    def is_audited(self, end: End) -> bool:
        """Whether an end denies nothing. A pod on the network of its host is one endpoint with all else there."""
        return ALL in self._audited or _endpoint(end) in self._audited

    def end(self, text: str) -> End:
        """The pod, node or address that a text names. Raises BadProbe."""
        scene = self._scene
        found = scene.nodes.get(text.removeprefix(_NODE)) if text.startswith(_NODE) else None
        found = found or scene.pods.get(text) or self._outside.get(text)
        if found is not None:
            return found
        try:
            found = scene.outside(text)
        except ValueError:
            raise BadProbe(_advice(text, scene)) from None
        if len(self._outside) >= _ADDRESSES_MAX:
            self._outside.clear()
        self._outside[text] = found
        return found

    def _routes(self, probe: Probe) -> tuple[Route, ...]:
        protocol, wanted = probe.number, probe.wanted_port
        if probe.from_.startswith(_SERVICE):
            raise BadProbe("from: nothing comes from a service: write one of its pods")
        source = self.end(probe.from_)
        service = self._service(probe.to)
        if service is not None:
            targets = backends(self._scene, service, wanted, protocol)
            return tuple(self._through(source, target, protocol) for target in targets)
        end = self.end(probe.to)
        return (self._route(source, end, protocol, _port(end, wanted, protocol)),)

    def _service(self, text: str) -> Service | None:
        if text.startswith(_SERVICE):
            return service_named(self._scene, text.removeprefix(_SERVICE))
        return self._services.get(text)

    def _through(self, source: End, target: Target, protocol: Protocol) -> Route:
        """The way to one backend of a service; to the one that it comes from, nothing is asked."""
        if target.end.pod is not None and target.end.pod is source.pod:
            return _UNASKED
        found = self._route(source, target.end, protocol, target.port)
        return found._replace(backend=f"{target.end} at {Traffic(Direction.INGRESS, protocol, target.port)}")

    def _route(self, source: End, destination: End, protocol: int, port: int) -> Route:
        if source.host is not None and destination.host is not None and source.node == destination.node:
            return _UNASKED
        return Route(
            self._case(source, destination, Traffic(Direction.EGRESS, protocol, port)),
            self._case(destination, source, Traffic(Direction.INGRESS, protocol, port)),
        )

    def _case(self, end: End, peer: End, traffic: Traffic) -> Case:
        """What the policy of one end makes of it."""
        if not end.subject:
            return Case(Explanation(Outcome.ALLOWED, f"{end} is outside the cluster: its policy is not known here"))
        repository = self._scene.repository(end)
        judge = self._judges.get(id(repository))
        if judge is None:
            judge = self._judges[id(repository)] = Judge(repository)
        open_to_all = judge.open_case(end.subject, traffic.direction)
        if open_to_all is not None:
            return open_to_all
        other = self._scene.peer(peer, end)
        audited = self.is_audited(end)
        place = id(repository), end.subject, traffic.direction, traffic.protocol
        edges = self._edges.get(place)
        if edges is None:
            edges = self._edges[place] = port_edges(repository, *place[1:], self._scene.ports)
        key = (*place, other.number, audited, bisect_right(edges, traffic.port))
        case = self._cases.get(key)
        if case is not None:
            return case.at(traffic)
        if len(self._cases) >= _CASES_MAX:
            self._cases.clear()
        case = self._cases[key] = judge.case_of(end.subject, other, traffic, audited=audited)
        return case


def _endpoint(end: End) -> str:
    return end.name if end.host is None else f"{_NODE}{end.node}"


def _worst(routes: tuple[Route, ...], request: Request | None, probe: Probe) -> Answer:
    if not routes:
        none = Explanation(Outcome.DENIED, f"{probe.to} has no backend for this port")
        return Answer(Outcome.DENIED, l7=False, egress=none, ingress=none)
    if len(routes) == 1:
        return routes[0].answer(request)
    return max((one.answer(request) for one in routes), key=lambda one: _RANK[one.verdict])


def _port(end: End, wanted: int | str | None, protocol: Protocol) -> int:
    if isinstance(wanted, int):
        return wanted
    if wanted is None:
        raise BadProbe(f"port is missing: write a number or, for a pod or service, a name; {protocol.name} has ports")
    found = named_port(end, wanted, protocol)
    if found is None:
        held = ", ".join(sorted(f"{one.name}={number}/{one.protocol.name}" for one, number in end.ports)) or "none"
        raise BadProbe(f"port: {end} has no {protocol.name} port named {wanted!r}; its named ports are {held}")
    return found


def _advice(text: str, scene: Scene) -> str:
    if text.startswith(_NODE):
        return (
            f"there is no node {text.removeprefix(_NODE)!r}{did_you_mean(text, [_NODE + name for name in scene.nodes])}"
        )
    if "/" in text and not text.startswith("/"):
        return f"there is no pod {text!r}{did_you_mean(text, scene.pods)}"
    return f"{text!r} is no end of traffic: write namespace/pod, node/NAME, an address or svc:namespace/name"
