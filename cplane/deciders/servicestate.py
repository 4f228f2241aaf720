"""All services and backends with their numbers: what decisions about them depend on, folded from facts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
from immutables import Map

from cplane.domain.ports import Protocol
from cplane.domain.service import (
    Algorithm,
    Backend,
    BackendState,
    Forwarding,
    Frontend,
    FrontendKind,
    Service,
    ServiceName,
    ServiceOptions,
    readiest,
    shown,
)
from cplane.events.service import (
    BackendRecord,
    BackendsChanged,
    BackendStateChanged,
    FrontendRecord,
    ServiceDeleted,
    ServiceEvent,
    ServiceOptionsChanged,
    ServiceUpserted,
)


class FrontendKey(NamedTuple):
    """What only one frontend may be. One that redirects to this node takes the place of the service's own."""

    address: str
    port: int
    protocol: str
    redirect: bool

    def __str__(self) -> str:
        return shown(self.address, self.port, self.protocol)


class BackendKey(NamedTuple):
    """What is one backend, wherever it is named."""

    address: str
    port: int
    protocol: str

    def __str__(self) -> str:
        return shown(*self)


@dataclass(frozen=True, slots=True)
class ServiceState:
    """Options, all services, all backends by service and source, who has which frontend, and the numbers in use.

    `backends_by_key` has the number of each backend, `users` how many places name it, `states` what was set.
    `unselective` are the services that have addresses behind them and not pods that a selector selects.
    """

    services: Map[ServiceName, ServiceUpserted] = field(default_factory=Map)
    sources: Map[ServiceName, Map[str, tuple[BackendRecord, ...]]] = field(default_factory=Map)
    frontends: Map[FrontendKey, tuple[int, ServiceName]] = field(default_factory=Map)
    frontend_ids: Map[int, FrontendKey] = field(default_factory=Map)
    backends_by_key: Map[BackendKey, int] = field(default_factory=Map)
    users: Map[int, int] = field(default_factory=Map)
    states: Map[int, BackendState] = field(default_factory=Map)
    unselective: Map[ServiceName, None] = field(default_factory=Map)
    last_frontend: int = 0
    last_backend: int = 0
    options: ServiceOptions = field(default_factory=ServiceOptions)

    def backends(self, name: ServiceName) -> Iterator[BackendRecord]:
        """The backends of a service, those that several sources name once: as the readiest of these says."""
        held = self.sources.get(name, Map())
        yield from readiest(held[source] for source in sorted(held)).values()

    def source(self, name: ServiceName, source: str) -> tuple[BackendRecord, ...]:
        """What a source knows of a service; empty for one that there is not."""
        sources = self.sources.get(name)
        return () if sources is None else sources.get(source, ())

    def records(self) -> Iterator[BackendRecord]:
        """What all sources know of all services; a backend stands there as often as it is named."""
        return (one for sources in self.sources.values() for records in sources.values() for one in records)

    def names(self) -> Iterator[ServiceName]:
        """Every service that is described or has backends, each once."""
        yield from self.services
        yield from (name for name in self.sources if name not in self.services)

    def shown(self, name: ServiceName) -> "ShownService":
        """A service that is described, as it is."""
        backends = (
            one if (now := self.state_of(one).value) == one.state else msgspec.structs.replace(one, state=now)
            for one in self.backends(name)
        )
        return ShownService(service=self.services[name], backends=tuple(backends))

    def state_of(self, record: BackendRecord) -> BackendState:
        """What counts: one that terminates does so whatever was set."""
        said = BackendState(record.state)
        return said if said is BackendState.TERMINATING else self.states.get(record.id, said)


class ShownService(msgspec.Struct, frozen=True, kw_only=True):
    """A service and its backends, each in the state that counts."""

    service: ServiceUpserted
    backends: tuple[BackendRecord, ...]


def frontend_key(record: FrontendRecord) -> FrontendKey:
    """What only one frontend may be, of one that has a number."""
    return FrontendKey(record.address, record.port, record.protocol, record.kind == FrontendKind.LOCAL_REDIRECT)


def backend_key(record: BackendRecord) -> BackendKey:
    """What is one backend, of one that has a number."""
    return BackendKey(record.address, record.port, record.protocol)


def service_of(event: ServiceUpserted) -> Service:
    """The service that the event describes."""
    return Service(
        name=ServiceName(event.namespace, event.name),
        frontends=tuple(
            Frontend(one.address, one.port, Protocol[one.protocol], FrontendKind(one.kind), one.port_name)
            for one in event.frontends
        ),
        labels=event.labels,
        selector=event.selector,
        affinity_s=event.affinity_s,
        external_local=event.external_local,
        internal_local=event.internal_local,
        source_ranges=event.source_ranges,
        ranges_deny=event.ranges_deny,
        algorithm=Algorithm(event.algorithm),
        forwarding=Forwarding(event.forwarding),
        health_check_port=event.health_check_port,
        topology=event.topology,
        drop=event.drop,
        skip_backends=event.skip_backends,
        health_path=event.health_path,
    )


def backend_of(record: BackendRecord) -> Backend:
    """The backend that a record describes."""
    return Backend(
        record.address,
        record.port,
        Protocol[record.protocol],
        record.port_name,
        BackendState(record.state),
        record.weight,
        record.node,
        record.zones,
    )


def changed(options: ServiceOptions) -> ServiceOptionsChanged:
    """The event that says these options."""
    return ServiceOptionsChanged(
        algorithm=options.algorithm.value,
        forwarding=options.forwarding.value,
        maglev_size=options.maglev_size,
        maglev_seed=options.maglev_seed,
        external_cluster_ip=options.external_cluster_ip,
        zone=options.zone,
    )


def options_of(event: ServiceOptionsChanged) -> ServiceOptions:
    """The options that the event says."""
    return ServiceOptions(
        algorithm=Algorithm(event.algorithm),
        forwarding=Forwarding(event.forwarding),
        maglev_size=event.maglev_size,
        maglev_seed=event.maglev_seed,
        external_cluster_ip=event.external_cluster_ip,
        zone=event.zone,
    )


def evolve(state: ServiceState, event: ServiceEvent) -> ServiceState:
    """The state after one more fact."""
    return evolve_all(state, (event,))


def evolve_all(state: ServiceState, events: Iterable[ServiceEvent]) -> ServiceState:
    """The state after all of these facts, in order; there may be a hundred thousand backends in them."""
    opened = _Opened(state)
    for event in events:
        opened.apply(event)
    return opened.close()


class _Opened:
    """A state that changes in place: a map that is changed once for each fact copies its branches for each."""

    def __init__(self, state: ServiceState) -> None:
        self._services, self._sources = state.services.mutate(), state.sources.mutate()
        self._frontends, self._frontend_ids = state.frontends.mutate(), state.frontend_ids.mutate()
        self._by_key, self._users = state.backends_by_key.mutate(), state.users.mutate()
        self._states, self._unselective = state.states.mutate(), state.unselective.mutate()
        self._last_frontend, self._last_backend = state.last_frontend, state.last_backend
        self._options = state.options

    def close(self) -> ServiceState:
        """The state as it is now, after which this is of no more use."""
        return ServiceState(
            services=self._services.finish(),
            sources=self._sources.finish(),
            frontends=self._frontends.finish(),
            frontend_ids=self._frontend_ids.finish(),
            backends_by_key=self._by_key.finish(),
            users=self._users.finish(),
            states=self._states.finish(),
            unselective=self._unselective.finish(),
            last_frontend=self._last_frontend,
            last_backend=self._last_backend,
            options=self._options,
        )

    def apply(self, event: ServiceEvent) -> None:
        """One more fact."""
        match event:
            case BackendsChanged():
                self._backends_changed(event)
            case ServiceUpserted():
                self._forget(event)
                self._describe(event)
            case ServiceDeleted():
                self._forget(event)
                self._services.pop(ServiceName(event.namespace, event.name), None)
            case ServiceOptionsChanged():
                self._options = options_of(event)
            case BackendStateChanged() if event.backend in self._users:
                if event.state == BackendState.ACTIVE:
                    self._states.pop(event.backend, None)
                else:
                    self._states[event.backend] = BackendState(event.state)

    def _forget(self, event: ServiceUpserted | ServiceDeleted) -> None:
        """The service has no frontends, and is none that policies may name."""
        name = ServiceName(event.namespace, event.name)
        held = self._services.get(name)
        for one in held.frontends if held else ():
            if self._frontends.get(frontend_key(one)) == (one.id, name):  # not that of one that has taken it over
                del self._frontends[frontend_key(one)]
            self._frontend_ids.pop(one.id, None)
        self._unselective.pop(name, None)

    def _describe(self, event: ServiceUpserted) -> None:
        name = ServiceName(event.namespace, event.name)
        held = self._services.get(name)
        known = {one.id for one in held.frontends} if held else set()
        for one in event.frontends:
            key = frontend_key(one)
            self._frontends[key] = (one.id, name)
            self._frontend_ids[one.id] = key
            if one.id not in known:
                self._last_frontend = one.id
        if not event.selector:
            self._unselective[name] = None
        self._services[name] = event

    def _backends_changed(self, event: BackendsChanged) -> None:
        name = ServiceName(event.namespace, event.service)
        sources = self._sources.get(name, Map[str, tuple[BackendRecord, ...]]())
        users = self._users
        for one in event.backends:
            used = users.get(one.id, 0)
            if not used:
                self._by_key[backend_key(one)] = self._last_backend = one.id
            users[one.id] = used + 1
        for one in sources.get(event.source, ()):
            users[one.id] -= 1
            if not users[one.id]:
                del users[one.id], self._by_key[backend_key(one)]
                self._states.pop(one.id, None)
        if event.backends:
            sources = sources.set(event.source, event.backends)
        elif event.source in sources:
            sources = sources.delete(event.source)
        if sources:
            self._sources[name] = sources
        else:
            self._sources.pop(name, None)


def gathered(
    services: Iterable[ServiceUpserted], backends: Iterable[BackendsChanged], states: Iterable[BackendStateChanged]
) -> ServiceState:
    """What `evolve` makes of facts of which each is about something else; there may be a hundred thousand backends.

    Which numbers were given last, and the options, are not in them.
    """
    named = {ServiceName(one.namespace, one.name): one for one in services}
    frontends = {frontend_key(one): (one.id, name) for name, event in named.items() for one in event.frontends}
    sources: dict[ServiceName, dict[str, tuple[BackendRecord, ...]]] = {}
    by_key: dict[BackendKey, int] = {}
    users: dict[int, int] = {}
    for event in backends:
        sources.setdefault(ServiceName(event.namespace, event.service), {})[event.source] = event.backends
        for one in event.backends:
            by_key[backend_key(one)] = one.id
            users[one.id] = users.get(one.id, 0) + 1
    return ServiceState(
        services=Map(named),
        sources=Map({name: Map(held) for name, held in sources.items()}),
        frontends=Map(frontends),
        frontend_ids=Map({number: key for key, (number, _) in frontends.items()}),
        backends_by_key=Map(by_key),
        users=Map(users),
        states=Map({one.backend: BackendState(one.state) for one in states}),
        unselective=Map({name: None for name, event in named.items() if not event.selector}),
    )


def facts_of(state: ServiceState) -> Iterable[ServiceEvent]:
    """The fewest facts that say what is so."""
    if state.options != ServiceOptions():
        yield changed(state.options)
    for name, sources in state.sources.items():
        for source, backends in sources.items():
            yield BackendsChanged(namespace=name.namespace, service=name.name, source=source, backends=backends)
    yield from state.services.values()
    keys = {number: key for key, number in state.backends_by_key.items()}
    for number, held in state.states.items():
        address, port, protocol = keys[number]
        yield BackendStateChanged(backend=number, address=address, port=port, protocol=protocol, state=held.value)
