"""Services: frontends and backends get their numbers here, and no address and port is given twice."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Final, cast

import msgspec
from immutables import Map

from cplane.deciders.decider import Decision
from cplane.deciders.servicestate import (
    BackendKey,
    FrontendKey,
    ServiceState,
    backend_of,
    changed,
    evolve,
    service_of,
)
from cplane.domain.numbers import next_free
from cplane.domain.ports import Protocol
from cplane.domain.service import (
    FRONTENDS_MAX,
    TRANSITIONS,
    Backend,
    Backends,
    BackendState,
    Frontend,
    FrontendKind,
    Service,
    ServiceName,
    ServiceOptions,
    family_of,
    wrong_backends,
    wrong_services,
)
from cplane.errors import NotFound, Rejected
from cplane.events.catalog import Event
from cplane.events.envelope import SERVICE, StreamId
from cplane.events.service import (
    BackendRecord,
    BackendsChanged,
    BackendStateChanged,
    FrontendRecord,
    ServiceDeleted,
    ServiceEvent,
    ServiceUpserted,
)

BACKEND_ID_MAX: Final = (1 << 32) - 1
# There may be a hundred thousand backends, and what an enumeration calls its members is asked for by a function.
_PROTOCOL_NAMES: Final = {one: one.name for one in Protocol}
_STATE_NAMES: Final = {one: one.value for one in BackendState}


class InvalidServices(Rejected):
    """At least one service or backend is not possible; `errors` are (whose, where, what is wrong)."""

    code = "service.invalid"

    def __init__(self, errors: tuple[tuple[str, str, str], ...]) -> None:
        self.errors = errors

    def __str__(self) -> str:
        said = "; ".join(f"service {whose}, {where}: {what}" for whose, where, what in self.errors)
        return f"{said}; nothing was changed"


class TooManyFrontends(Rejected):
    """There is no number left for another frontend."""

    code = "service.too_many"

    def __init__(self, needed: int) -> None:
        self.needed = needed

    def __str__(self) -> str:
        return (
            f"there would be {self.needed} frontends (addresses and ports of services), and there is room for "
            f"{FRONTENDS_MAX}: nothing was changed; delete services or ports that are not used"
        )


class BadServiceOption(Rejected):
    """An option of services cannot have this value."""

    code = "service.bad_option"


class NoSuchService(NotFound):
    """Services that were named do not exist; `others` exist, under the same name elsewhere."""

    code = "service.not_found"

    def __init__(self, names: tuple[ServiceName, ...], others: tuple[ServiceName, ...] = ()) -> None:
        self.names, self.others = names, others

    def __str__(self) -> str:
        advice = f"; there is {', '.join(map(str, self.others))}" if self.others else ""
        return f"no such service: {', '.join(map(str, self.names))}{advice}"


class NoSuchBackend(NotFound):
    """No service has this backend."""

    code = "service.no_such_backend"

    def __init__(self, key: BackendKey) -> None:
        self.key = key

    def __str__(self) -> str:
        return f"no service has the backend {self.key}: `cplane service list` shows those that there are"


class WrongState(Rejected):
    """A backend cannot go from its state to this one."""

    code = "service.wrong_state"

    def __init__(self, key: BackendKey, held: BackendState, wanted: BackendState) -> None:
        self.key, self.held, self.wanted = key, held, wanted

    def __str__(self) -> str:
        # That a backend terminates is for its sources to say.
        may = ", ".join(sorted(TRANSITIONS[self.held] - {BackendState.TERMINATING})) or "no other state"
        return f"backend {self.key} is {self.held} and cannot become {self.wanted}; it can become {may}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyServices:
    """These services, and these backends of sources, are so from now on; a source without backends is gone."""

    services: tuple[Service, ...] = ()
    backends: tuple[Backends, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteServices:
    """None of these services exists any more, nor do their backends."""

    names: tuple[ServiceName, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetBackendState:
    """The backend is in this state, whatever its sources say; `active`: what they say, again."""

    address: str
    port: int
    protocol: Protocol
    state: BackendState


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeServiceOptions:
    """Services are served so from now on."""

    options: ServiceOptions


ServiceCommand = ApplyServices | DeleteServices | SetBackendState | ChangeServiceOptions


def decide(command: ServiceCommand, state: ServiceState) -> Decision:
    """The events that the command leads to. Raises Rejected or NotFound."""
    match command:
        case ApplyServices():
            return decide_apply(command, state)
        case DeleteServices():
            return decide_delete(command, state)
        case SetBackendState():
            return decide_state(command, state)
        case ChangeServiceOptions():
            return decide_options(command, state)


def decide_apply(command: ApplyServices, state: ServiceState) -> Decision:
    """BackendsChanged and ServiceUpserted for what differs from what is held."""
    described = {one.name for one in command.services}
    errors = [*wrong_services(command.services), *wrong_backends(command.backends, described)]
    errors = errors or [*_taken(command.services, state), *_mixed_families(command, state)]
    if errors:
        raise InvalidServices(tuple(errors))
    given = _Frontends(state, command.services)
    numbers = _BackendNumbers(state)
    changes = [change for one in command.backends if (change := numbers.change(one)) is not None]
    decided: list[tuple[StreamId, Event]] = [(SERVICE, change) for change in _without_gaps(changes, state)]
    # A service comes after the backends that it leads to.
    events = (given.event(service) for service in command.services)
    decided += [(SERVICE, event) for event in events if event is not None]
    return tuple(decided)


def _without_gaps(changes: list[BackendsChanged], state: ServiceState) -> list[BackendsChanged]:
    """These changes in an order in which none of the backends that move from one source to another is ever nobody's.

    Otherwise what was set of it would be forgotten, and its number be taken for a new one.
    """
    held = [state.source(ServiceName(one.namespace, one.service), one.source) for one in changes]
    left = [
        _numbers(before) - _numbers(one.backends) if before else frozenset()
        for one, before in zip(changes, held, strict=True)
    ]
    if not any(left):
        return changes
    gone = frozenset[int]().union(*left)
    come = [_numbers(one.backends) & gone - _numbers(before) for one, before in zip(changes, held, strict=True)]
    moved = frozenset[int]().union(*come)
    first: list[BackendsChanged] = []
    last: list[BackendsChanged] = []
    for one, before, leaves, comes in zip(changes, held, left, come, strict=True):
        if not leaves & moved:
            first.append(one)
            continue
        last.append(one)
        if comes:  # it waits for others, and they for it: it has both for a moment
            kept = tuple(record for record in before if record.id in leaves)
            first.append(msgspec.structs.replace(one, backends=(*one.backends, *kept)))
    return [*first, *last]


def _numbers(records: tuple[BackendRecord, ...]) -> frozenset[int]:
    return frozenset(one.id for one in records)


def decide_delete(command: DeleteServices, state: ServiceState) -> Decision:
    """ServiceDeleted for each, after its backends are gone; refused when one of them does not exist."""
    missing = tuple(name for name in command.names if name not in state.services)
    if missing:
        names = {name.name for name in missing}
        raise NoSuchService(missing, tuple(sorted(name for name in state.services if name.name in names)))
    decided: list[tuple[StreamId, Event]] = []
    for name in dict.fromkeys(command.names):
        decided.append((SERVICE, ServiceDeleted(namespace=name.namespace, name=name.name)))
        for source in sorted(state.sources.get(name, Map())):
            gone = BackendsChanged(namespace=name.namespace, service=name.name, source=source, backends=())
            decided.append((SERVICE, gone))
    return tuple(decided)


def decide_state(command: SetBackendState, state: ServiceState) -> Decision:
    """BackendStateChanged, where anything differs."""
    key = BackendKey(command.address, command.port, command.protocol.name)
    number = state.backends_by_key.get(key)
    if number is None:
        raise NoSuchBackend(key)
    held = state.states.get(number, BackendState.ACTIVE)
    if all(one.state == BackendState.TERMINATING for one in state.records() if one.id == number):
        held = BackendState.TERMINATING
    if command.state is held:
        return ()
    if command.state not in TRANSITIONS[held] or command.state is BackendState.TERMINATING:
        raise WrongState(key, held, command.state)
    event = BackendStateChanged(
        backend=number, address=key.address, port=key.port, protocol=key.protocol, state=command.state.value
    )
    return ((SERVICE, event),)


def decide_restore(wanted: ServiceState, held: ServiceState) -> Decision:
    """What leads from `held` to the services, backends, states and options of `wanted`, numbers aside."""
    gone = tuple(sorted(name for name in held.services if name not in wanted.services))
    decided: list[tuple[StreamId, Event]] = [*decide_options(ChangeServiceOptions(options=wanted.options), held)]
    now = held
    steps: list[ServiceCommand] = [DeleteServices(names=gone)] if gone else []
    services = tuple(service_of(one) for _, one in sorted(wanted.services.items()))
    steps.append(ApplyServices(services=services, backends=tuple(_sources_of(wanted, held))))
    for step in steps:
        for stream, event in decide(step, now):
            decided.append((stream, event))
            now = evolve(now, cast("ServiceEvent", event))
    keys = {number: key for key, number in wanted.backends_by_key.items()}
    states = {keys[number]: state for number, state in wanted.states.items()}
    for key, number in sorted(now.backends_by_key.items()):
        state = states.get(key, BackendState.ACTIVE)
        if now.states.get(number, BackendState.ACTIVE) is not state:
            address, port, protocol = key
            fact = BackendStateChanged(backend=number, address=address, port=port, protocol=protocol, state=state)
            decided.append((SERVICE, fact))
    return tuple(decided)


def _sources_of(wanted: ServiceState, held: ServiceState) -> Iterator[Backends]:
    """The backends of every source of either; none for one that was not there."""
    places = {(name, source) for state in (wanted, held) for name, many in state.sources.items() for source in many}
    for name, source in sorted(places):
        records = wanted.source(name, source)
        if records or name in wanted.services or name not in held.services:
            yield Backends(name, source, tuple(map(backend_of, records)))


def decide_options(command: ChangeServiceOptions, state: ServiceState) -> Decision:
    """ServiceOptionsChanged, where anything differs."""
    wanted = command.options
    if wrong := wanted.problem():
        raise BadServiceOption(wrong)
    return () if wanted == state.options else ((SERVICE, changed(wanted)),)


class _Frontends:
    """Gives numbers to the frontends of one command."""

    def __init__(self, state: ServiceState, services: tuple[Service, ...]) -> None:
        self._state = state
        # A number that is let go by this command is not given again by it: it rests.
        replaced = (state.services.get(name) for name in {one.name for one in services})
        kept = len(state.frontend_ids) - sum(len(one.frontends) for one in replaced if one is not None)
        needed = kept + sum(len(one.frontends) for one in services)
        if needed > FRONTENDS_MAX:
            raise TooManyFrontends(needed)
        self._numbers = _Numbers(state.last_frontend, FRONTENDS_MAX, state.frontend_ids)

    def event(self, service: Service) -> ServiceUpserted | None:
        """The fact that the service is so; None where nothing is new."""
        held = self._state.services.get(service.name)
        event = ServiceUpserted(
            namespace=service.name.namespace,
            name=service.name.name,
            frontends=tuple(self._record(service.name, one) for one in service.frontends),
            labels=service.labels,
            selector=service.selector,
            affinity_s=service.affinity_s,
            external_local=service.external_local,
            internal_local=service.internal_local,
            source_ranges=service.source_ranges,
            ranges_deny=service.ranges_deny,
            algorithm=service.algorithm.value,
            forwarding=service.forwarding.value,
            health_check_port=service.health_check_port,
            topology=service.topology,
            drop=service.drop,
            skip_backends=service.skip_backends,
            health_path=service.health_path,
        )
        return None if event == held else event

    def _record(self, name: ServiceName, one: Frontend) -> FrontendRecord:
        redirect = one.kind is FrontendKind.LOCAL_REDIRECT
        held = self._state.frontends.get(FrontendKey(one.address, one.port, one.protocol.name, redirect))
        number = held[0] if held is not None and held[1] == name else self._numbers.give()
        return FrontendRecord(
            id=number,
            address=one.address,
            port=one.port,
            protocol=one.protocol.name,
            kind=one.kind.value,
            port_name=one.port_name,
        )


class _BackendNumbers:
    """Gives numbers to the backends of one command."""

    def __init__(self, state: ServiceState) -> None:
        self._state = state
        self._numbers = _Numbers(state.last_backend, BACKEND_ID_MAX, state.users)
        self._given: dict[BackendKey, int] = {}

    def change(self, many: Backends) -> BackendsChanged | None:
        """The fact that a source knows these; None where nothing is new."""
        records = tuple(map(self.record, many.backends))
        if records == self._state.source(many.service, many.source):
            return None
        name = many.service
        return BackendsChanged(namespace=name.namespace, service=name.name, source=many.source, backends=records)

    def record(self, one: Backend) -> BackendRecord:
        """The backend with its number."""
        protocol = _PROTOCOL_NAMES[one.protocol]
        key = BackendKey(one.address, one.port, protocol)
        number = self._given.get(key) or self._state.backends_by_key.get(key)
        if number is None:
            number = self._given[key] = self._numbers.give()
        return BackendRecord(
            id=number,
            address=one.address,
            port=one.port,
            protocol=protocol,
            port_name=one.port_name,
            state=_STATE_NAMES[one.state],
            weight=one.weight,
            node=one.node,
            zones=one.zones,
        )


class _Numbers:
    """Numbers from 1 on, none of which is in use or was given before by the same command."""

    def __init__(self, last: int, highest: int, used: Container[int]) -> None:
        self._last, self._highest, self._used = last, highest, used
        self._given: set[int] = set()

    def give(self) -> int:
        """The next one. Raises TooManyFrontends when there is none."""
        found = next_free(self._last, 1, self._highest, self._used, self._given)
        if found is None:
            raise TooManyFrontends(self._highest + 1)
        self._given.add(found)
        self._last = found
        return found


def _taken(services: tuple[Service, ...], state: ServiceState) -> Iterator[tuple[str, str, str]]:
    """Frontends that another service has, of this call or of those that are there."""
    taken: dict[FrontendKey, ServiceName] = {}
    moving = {one.name for one in services}
    for service in services:
        for one in service.frontends:
            key = FrontendKey(one.address, one.port, one.protocol.name, one.kind is FrontendKind.LOCAL_REDIRECT)
            held = state.frontends.get(key)
            other = taken.get(key) or (held[1] if held is not None and held[1] not in moving else None)
            if other is not None and other != service.name:
                what = f"{key} is a frontend of service {other} already: use another address or port"
                yield str(service.name), f"frontend {key}", what
            taken[key] = service.name


def _mixed_families(command: ApplyServices, state: ServiceState) -> Iterator[tuple[str, str, str]]:
    """Backends that no frontend of their service could ever lead to."""
    described = {one.name: {front.family for front in one.frontends} for one in command.services}
    for many in command.backends:
        families = described.get(many.service)
        if families is None and (held := state.services.get(many.service)) is not None:
            families = {family_of(front.address) for front in held.frontends}
        if not families:
            continue
        for one in many.backends:
            if one.family not in families:
                what = f"the service has no IPv{one.family} frontend, and families are not translated into each other"
                yield str(many.service), f"backend {one}", what
