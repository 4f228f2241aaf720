"""Local redirects: what goes to some places ends at pods of the client's own node, such as a cache for DNS."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from cplane.domain.ports import Protocol
from cplane.domain.selectors import LabelSelector
from cplane.domain.service import Backend, Frontend, FrontendKind, Service, ServiceName

SUFFIX: Final = ":local-redirect"
"""Ends the names of services that redirects are; no service of Kubernetes has a colon in its name."""


class RedirectPort(NamedTuple):
    """A port and its name, in lower case; it is what several ports are told apart by."""

    port: int
    protocol: Protocol
    name: str = ""


class LocalPod(NamedTuple):
    """A pod of this node that is ready."""

    name: str
    addresses: tuple[str, ...]
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRedirect:
    """Where traffic is redirected, and to which pods of its namespace.

    From `address` at `ports`, or else from the cluster addresses of `service`: at `ports`, or at all of its ports where
    there are none. `targets` are ports of the pods that `selector` selects. With `skip_backends` these pods themselves
    are not redirected.
    """

    name: ServiceName
    address: str = ""
    service: ServiceName | None = None
    ports: tuple[RedirectPort, ...] = ()
    selector: LabelSelector
    targets: tuple[RedirectPort, ...]
    skip_backends: bool = False

    @property
    def service_name(self) -> ServiceName:
        """What the service is called that the redirect is."""
        return ServiceName(self.name.namespace, f"{self.name.name}{SUFFIX}")

    @property
    def by_name(self) -> bool:
        """Whether a port leads to the target of its name; a single port leads to the single target."""
        return len(self.targets) > 1 or len(self.ports) > 1

    def frontends(self, services: Iterable[Service]) -> tuple[Frontend, ...]:
        """What is redirected, where these are all services; each place once."""
        return tuple(dict.fromkeys(self._frontends(services)))

    def _frontends(self, services: Iterable[Service]) -> Iterator[Frontend]:
        kind = FrontendKind.LOCAL_REDIRECT
        if self.service is None:
            for one in self.ports:
                yield Frontend(self.address, one.port, one.protocol, kind, one.name if self.by_name else "")
            return
        for service in services:
            for held in service.frontends if service.name == self.service else ():
                if held.kind is FrontendKind.CLUSTER_IP and self._redirects(held):
                    yield held._replace(kind=kind, port_name=held.port_name.lower() if self.by_name else "")

    def _redirects(self, held: Frontend) -> bool:
        if not self.ports:
            return not self.by_name or any(one.name == held.port_name.lower() for one in self.targets)
        named = len(self.ports) > 1
        return any(
            (one.port, one.protocol) == (held.port, held.protocol) and (not named or one.name == held.port_name.lower())
            for one in self.ports
        )

    def backends(self, pods: Iterable[LocalPod]) -> tuple[Backend, ...]:
        """The targets, where these are the pods that are selected."""
        return tuple(
            Backend(address, target.port, target.protocol, target.name if self.by_name else "", node=pod.node)
            for pod in pods
            for address in pod.addresses
            for target in self.targets
        )

    def applied(self, services: Iterable[Service], pods: Iterable[LocalPod]) -> tuple[Service, tuple[Backend, ...]]:
        """The service that the redirect is now. It redirects nothing to where there is nobody."""
        backends = self.backends(pods)
        there = {(one.protocol, one.port_name, one.family) for one in backends}
        frontends = tuple(one for one in self.frontends(services) if (one.protocol, one.port_name, one.family) in there)
        families = {one.family for one in frontends}
        made = Service(name=self.service_name, frontends=frontends, skip_backends=self.skip_backends)
        return made, tuple(b for b in backends if b.family in families)
