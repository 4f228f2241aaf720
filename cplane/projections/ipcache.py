"""ipcache: which identity is behind a prefix. Pods, the node, addresses with names, prefixes of policies, the world."""

from collections.abc import Iterator, Mapping

from cplane.domain.identity import NumericIdentity, Reserved, cidr_of_label, is_local, world_of
from cplane.domain.labels import CIDR, FQDN, Label, LabelSet
from cplane.events.catalog import Event
from cplane.events.endpoint import EndpointCreated, EndpointDeleted, EndpointRelabelled
from cplane.events.fqdn import AddressesForgotten, AddressesIdentified
from cplane.events.identity import IdentityAllocated, IdentityReleased
from cplane.events.node import NodeAddressesChanged, NodeJoined
from cplane.projections.addresses import prefix_key
from cplane.projections.delta import Delta, plan
from datapath.maps.ipcache import IpcacheInfo, IpcacheKey

_PODS, _HOST, _NAMES, _PREFIXES, _WORLD = range(5)  # who says so; where several do, the first


class IpcacheProjection:
    """Rows of `cplane_ipcache`.

    A prefix may be claimed by several sources (a pod's address that a policy also names as a prefix): the pod wins,
    then the host, then the names it was resolved from, then the policy's prefix.
    """

    def __init__(self) -> None:
        self._claims: dict[IpcacheKey, dict[int, int]] = {}
        self._table: dict[IpcacheKey, IpcacheInfo] = {}
        self._pods: dict[int, tuple[str, ...]] = {}
        self._local: dict[int, IpcacheKey] = {}
        self._routers: tuple[str, ...] = ()
        self._addresses: tuple[str, ...] = ()
        self._world: tuple[tuple[IpcacheKey, int], ...] = ()

    def table(self) -> Mapping[IpcacheKey, IpcacheInfo]:
        """All rows."""
        return self._table

    def apply(self, event: Event) -> Delta[IpcacheKey, IpcacheInfo]:
        """What the event changes."""
        touched = dict.fromkeys(self._claim(event))
        if not touched:
            return Delta.nothing()
        desired = {key: row for key in touched if (row := self._row(key)) is not None}
        actual = {key: self._table[key] for key in touched if key in self._table}
        delta = plan(desired, actual)
        self._table.update(delta.upserts)
        for key in delta.deletes:
            del self._table[key]
        return delta

    def _claim(self, event: Event) -> Iterator[IpcacheKey]:
        match event:
            case NodeJoined():
                yield from self._joined(event)
            case NodeAddressesChanged():
                yield from self._host((*self._routers, *event.addresses), (*self._routers, *self._addresses))
                self._addresses = event.addresses
            case EndpointCreated():
                self._pods[event.endpoint] = tuple(a for a in (event.ipv4, event.ipv6) if a)
                yield from self._pod(event.endpoint, event.identity)
            case EndpointRelabelled():
                yield from self._pod(event.endpoint, event.identity)
            case EndpointDeleted():
                for address in self._pods.pop(event.endpoint, ()):
                    yield self._drop(prefix_key(address), _PODS)
            case IdentityAllocated() if is_local(NumericIdentity(event.number)):
                labels = LabelSet.parse(event.labels)
                if not any(label.source == FQDN for label in labels):  # that is of addresses, not of their prefix
                    yield from (self._prefix(event.number, label) for label in labels if label.source == CIDR)
            case IdentityReleased() if event.number in self._local:
                yield self._drop(self._local.pop(event.number), _PREFIXES)
            case AddressesIdentified():
                yield from (self._set(prefix_key(one), _NAMES, event.identity) for one in event.addresses)
            case AddressesForgotten():
                yield from (self._drop(prefix_key(one), _NAMES) for one in event.addresses)
            case _:
                return

    def _joined(self, event: NodeJoined) -> Iterator[IpcacheKey]:
        routers = tuple(a for a in (event.ipv4_router, event.ipv6_router) if a)
        yield from self._host((*routers, *self._addresses), (*self._routers, *self._addresses))
        self._routers = routers
        families = [f for f, cidr in ((4, event.ipv4_pod_cidr), (6, event.ipv6_pod_cidr)) if cidr]
        everything = {4: "0.0.0.0/0", 6: "::/0"}
        for key, _ in self._world:
            yield self._drop(key, _WORLD)
        self._world = tuple(
            (prefix_key(everything[f]), int(world_of(f, dual_stack=len(families) == 2))) for f in families
        )
        for key, identity in self._world:
            yield self._set(key, _WORLD, identity)

    def _host(self, now: tuple[str, ...], before: tuple[str, ...]) -> Iterator[IpcacheKey]:
        for address in before:
            if address not in now:
                yield self._drop(prefix_key(address), _HOST)
        for address in now:
            yield self._set(prefix_key(address), _HOST, Reserved.HOST)

    def _pod(self, endpoint: int, identity: int) -> Iterator[IpcacheKey]:
        for address in self._pods.get(endpoint, ()):
            yield self._set(prefix_key(address), _PODS, identity)

    def _prefix(self, number: int, label: Label) -> IpcacheKey:
        key = prefix_key(str(cidr_of_label(label)))
        self._local[number] = key
        return self._set(key, _PREFIXES, number)

    def _set(self, key: IpcacheKey, source: int, identity: int) -> IpcacheKey:
        self._claims.setdefault(key, {})[source] = identity
        return key

    def _drop(self, key: IpcacheKey, source: int) -> IpcacheKey:
        claims = self._claims.get(key, {})
        claims.pop(source, None)
        if not claims:
            self._claims.pop(key, None)
        return key

    def _row(self, key: IpcacheKey) -> IpcacheInfo | None:
        claims = self._claims.get(key)
        return IpcacheInfo(claims[min(claims)]) if claims else None
