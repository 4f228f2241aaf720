"""Services for the load balancer, from manifests: strictly, all errors at once, and what is not served is said.

`services` reads Services for judging policies, where a cluster is described and nothing is served: only what matters
there, and with forbearance.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cplane.domain.localredirect import LocalRedirect
from cplane.domain.policy import InvalidPolicy
from cplane.domain.policy.document import FieldError, Place, did_you_mean
from cplane.domain.service import Backends, Service, ServiceName
from cplane.k8s.lb_backends import read_endpoints, read_slice
from cplane.k8s.lb_hostports import LbPod, read_pod
from cplane.k8s.lb_reading import Here, Notes
from cplane.k8s.lb_redirects import read_redirect
from cplane.k8s.lb_services import read_service
from cplane.k8s.nodes import node_of
from cplane.k8s.objects import Finding, Object, is_slip, stands_twice

_VERSIONS: Final[Mapping[str, str]] = {
    "Node": "v1",
    "Service": "v1",
    "EndpointSlice": "discovery.k8s.io/v1",
    "Endpoints": "v1",
    "Pod": "v1",
    "CiliumLocalRedirectPolicy": "cilium.io/v2",
}
"""In the order in which they are read: each after those that say something about it."""

_KINDS: Final = tuple(_VERSIONS)
_REDIRECT_SOURCE: Final = "redirect:"


@dataclass(slots=True)
class LbManifests:
    """What the objects describe, what is wrong with them (`errors`) and what of them is not served (`notes`).

    `services` and `backends` have redirects and ports of hosts in them, as far as the pods for them are described;
    `redirects` are the redirects themselves. `ignored`: kinds that mean nothing here, with their number.
    """

    services: list[Service] = field(default_factory=list)
    backends: list[Backends] = field(default_factory=list)
    redirects: list[LocalRedirect] = field(default_factory=list)
    errors: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def read_lb(objects: Iterable[Object], here: Here = Here()) -> LbManifests:  # noqa: B008  # frozen
    """Everything that the objects say to the node that is `here`. With an error, all of it is to be left alone."""
    reading = _Reading(here)
    by_kind: dict[str, list[Object]] = {kind: [] for kind in _KINDS}
    seen: dict[str, Object] = {}
    for one in objects:
        if one.value.get("apiVersion") != _VERSIONS.get(one.kind, ""):
            reading.leave_out(one)
            continue
        by_kind[one.kind].append(one)
        twice = stands_twice(one, seen)
        if twice is not None:
            reading.found.errors.append(twice)
    for held in by_kind.values():
        for one in held:
            reading.read(one)
    reading.look_for_backends()
    return reading.found


class _Reading:
    """What is found, and what of it other objects have to know."""

    def __init__(self, here: Here) -> None:
        self.found = LbManifests()
        self._here = here
        self._services: dict[ServiceName, tuple[Object, Service]] = {}
        self._unready: set[ServiceName] = set()  # services whose endpoints are used before they are ready
        self._sliced: set[ServiceName] = set()
        self._pods: list[LbPod] = []
        self._readers: Mapping[str, Callable[[Object, Place, Notes], None]] = {
            "Node": self._node,
            "Service": self._service,
            "EndpointSlice": self._slice,
            "Endpoints": self._endpoints,
            "Pod": self._pod,
            "CiliumLocalRedirectPolicy": self._redirect,
        }

    def leave_out(self, one: Object) -> None:
        """What is of another kind or version means nothing here, unless one of ours is meant."""
        wanted = _VERSIONS.get(one.kind, "")
        if not one.kind and one.is_kubernetes:
            self.found.errors.append(one.finding("kind", f"missing: write one of {', '.join(_KINDS)}"))
        elif wanted and ("apiVersion" not in one.value or one.group == wanted.rpartition("/")[0]):
            self.found.errors.append(one.finding("apiVersion", f"this version is not known: write {wanted}"))
        elif not wanted and is_slip(one.kind, _KINDS):
            self.found.errors.append(one.finding("kind", f"unknown kind{did_you_mean(one.kind, _KINDS)}"))
        else:
            self.found.ignored[one.kind_text] += 1

    def read(self, one: Object) -> None:
        """What the object says is found."""
        if not one.name:
            self.found.errors.append(one.finding("metadata.name", f"missing: a {one.kind} needs a name"))
            return
        reader, place = one.read()
        notes: Notes = []
        self._readers[one.kind](one, place, notes)
        self.found.notes.extend(one.findings(notes))
        try:
            reader.result(lambda: None)
        except InvalidPolicy as invalid:
            self.found.errors.extend(one.findings(invalid.errors))

    def look_for_backends(self) -> None:
        """Ports that no backend has, of services that have some, are said: a name may be misspelled."""
        there = {(held.service, one.port_name, one.protocol) for held in self.found.backends for one in held.backends}
        some = {name for name, _, _ in there}
        for name, (written, service) in self._services.items():
            if name not in some:
                continue
            for port in dict.fromkeys((one.port_name, one.protocol) for one in service.frontends):
                if (name, *port) not in there:
                    called = f"{port[1].name} port {port[0]!r}" if port[0] else f"{port[1].name} port without a name"
                    self.found.notes.append(written.finding("spec.ports", f"no backend of it has a {called}"))

    def _node(self, one: Object, place: Place, _notes: Notes) -> None:
        if one.name == self._here.node and self._here.labels is None:
            self._here = self._here._replace(labels=node_of(one.name, place).labels)

    def _service(self, one: Object, place: Place, notes: Notes) -> None:
        read = read_service(ServiceName(one.namespace, one.name), place, self._here, notes)
        self.found.services.append(read.service)
        self._services[read.service.name] = one, read.service
        if read.publishes_unready:
            self._unready.add(read.service.name)

    def _slice(self, one: Object, place: Place, notes: Notes) -> None:
        read = read_slice(one.name, one.namespace, place, self._unready, notes)
        if read is not None:
            self._sliced.add(read.service)
            self.found.backends.append(read)

    def _endpoints(self, one: Object, place: Place, notes: Notes) -> None:
        read = read_endpoints(ServiceName(one.namespace, one.name), place, notes)
        if read.service not in self._sliced:  # slices say the same, and more
            self.found.backends.append(read)

    def _pod(self, one: Object, place: Place, notes: Notes) -> None:
        read = read_pod(one.namespace, one.name, place, self._here, notes)
        self._pods.append(read)
        self.found.services.extend(read.services)
        self.found.backends.extend(read.backends)

    def _redirect(self, one: Object, place: Place, notes: Notes) -> None:
        read = read_redirect(ServiceName(one.namespace, one.name), place)
        if read is None:
            return
        self.found.redirects.append(read)
        chosen = [
            pod.local
            for pod in self._pods
            if pod.local is not None and pod.namespace == one.namespace and read.selector.matches(pod.labels)
        ]
        held = self._services.get(read.service) if read.service is not None else None
        service, backends = read.applied([held[1]] if held is not None else [], chosen)
        self.found.services.append(service)
        self.found.backends.append(Backends(service.name, f"{_REDIRECT_SOURCE}{one.name}", backends))
        if not service.frontends:
            notes.append(_nothing_redirected(read, known=held is not None, pods=bool(chosen)))


def _nothing_redirected(redirect: LocalRedirect, *, known: bool, pods: bool) -> FieldError:
    """Why a redirect does nothing with what is described."""
    if not pods:
        path, why = "spec.redirectBackend.localEndpointSelector", "no pod of this node that is ready is described"
    elif redirect.service is not None and not known:
        path, why = "spec.redirectFrontend.serviceMatcher", f"service {redirect.service} is not described"
    else:
        path, why = "spec.redirectFrontend", "no port of it leads to one of the pods"
    return FieldError(path, f"{why}: nothing is redirected")
