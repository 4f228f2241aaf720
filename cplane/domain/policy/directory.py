"""What rules refer to by name: groups of prefixes, and services."""

from collections.abc import Iterator
from functools import lru_cache
from ipaddress import ip_network
from typing import NamedTuple

from cplane.domain.cidr import Prefix, contains
from cplane.domain.labels import FQDN, K8S, NAMESPACE_KEY, Label, LabelSet
from cplane.domain.policy.dns import DnsRule
from cplane.domain.policy.rule import CidrGroup, CloudRef, GroupRef, Peer, ServiceRef
from cplane.domain.selectors import CidrSelector, LabelSelector, Operator, Requirement, Selector


class Service(NamedTuple):
    """A Kubernetes service: the pods of its namespace that `selector` selects or, without one, `addresses`."""

    namespace: str
    name: str
    labels: LabelSet = LabelSet()
    selector: tuple[tuple[str, str], ...] = ()
    addresses: tuple[str, ...] = ()


@lru_cache(maxsize=1024)  # services that are many have few labels between them
def service_labels(texts: tuple[str, ...]) -> LabelSet:
    """The labels of a service, of which each is written `key=value`."""
    return LabelSet(tuple(Label(key, K8S, value) for key, _, value in (text.partition("=") for text in texts)))


class Directory:
    """What exists now. A name that stands for nothing selects nobody."""

    def __init__(self) -> None:
        self._groups: dict[str, CidrGroup] = {}
        self._services: dict[tuple[str, str], Service] = {}

    def set_group(self, name: str, group: CidrGroup | None) -> None:
        """The group reads so now; None: there is none of that name."""
        if group is None:
            self._groups.pop(name, None)
        else:
            self._groups[name] = group

    def set_service(self, service: Service) -> None:
        """The service is this one now."""
        self._services[service.namespace, service.name] = service

    def remove_service(self, namespace: str, name: str) -> None:
        """There is no service of that name."""
        self._services.pop((namespace, name), None)

    def expand(self, peer: Peer) -> tuple[Selector, ...]:
        """The selectors that the peer stands for, each once."""
        return tuple(dict.fromkeys(self._expand(peer)))

    def _expand(self, peer: Peer) -> Iterator[Selector]:
        match peer:
            case GroupRef():
                for group in self._chosen_groups(peer):
                    for prefix in group.prefixes:
                        yield CidrSelector(prefix, tuple(hole for hole in peer.excepts if _meet(hole, prefix)))
            case ServiceRef():
                for service in self._chosen_services(peer):
                    yield from _selectors_of(service)
            case DnsRule():
                # An address that a name was resolved to has an identity with a label for each name and pattern.
                if str(peer) != "nothing":
                    yield LabelSelector((Requirement(FQDN, str(peer), Operator.EXISTS),))
            case CloudRef():
                return
            case _:
                yield peer

    def _chosen_groups(self, peer: GroupRef) -> Iterator[CidrGroup]:
        if peer.selector is None:
            group = self._groups.get(peer.name)
            if group is not None:
                yield group
            return
        yield from (group for group in self._groups.values() if peer.selector.matches(group.labels))

    def _chosen_services(self, peer: ServiceRef) -> Iterator[Service]:
        return (one for one in self._services.values() if peer.chooses(one.namespace, one.name, one.labels))


def _selectors_of(service: Service) -> Iterator[Selector]:
    if service.selector:
        found = [Requirement(K8S, key, Operator.IN, (value,)) for key, value in service.selector]
        yield LabelSelector.of((*found, Requirement(K8S, NAMESPACE_KEY, Operator.IN, (service.namespace,))))
        return
    for address in service.addresses:
        yield CidrSelector(ip_network(address))


def _meet(one: Prefix, other: Prefix) -> bool:
    return contains(one, other) or contains(other, one)
