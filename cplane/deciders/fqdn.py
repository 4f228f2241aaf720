"""Names that endpoints were told, and the identities of their addresses.

An address has an identity of its own while a policy selects a name that it was resolved from. Its labels are the
selectors (`fqdn:*.example.com`), the longest prefix around it that a policy names, and the world; addresses with the
same labels share an identity. Source: Cilium since 1.16 does so.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, NamedTuple

from immutables import Map

from cplane.deciders import identity
from cplane.deciders.decider import Decision
from cplane.deciders.endpoint import EndpointState
from cplane.deciders.identity import IdentityState
from cplane.deciders.policy import PolicyState
from cplane.deciders.prefixes import by_services
from cplane.deciders.servicestate import ServiceState
from cplane.domain.cidr import Prefix
from cplane.domain.identity import cidr_label, world_of
from cplane.domain.labels import FQDN, RESERVED, Label, LabelSet
from cplane.domain.policy.dns import DnsRule
from cplane.events.catalog import Event
from cplane.events.envelope import FQDN as STREAM
from cplane.events.envelope import StreamId
from cplane.events.fqdn import AddressesForgotten, AddressesIdentified, NameExpired, NameResolved

ADDRESSES_MAX: Final = 20_000
"""Of all names of one endpoint. An answer that would have more is not recorded, so nothing new is allowed by it."""


class Answer(NamedTuple):
    """What an endpoint was told: see events.fqdn.NameResolved."""

    endpoint: int
    name: str
    ips: tuple[str, ...]
    ttl: int
    server: str
    at_ns: int


class Ended(NamedTuple):
    """Addresses of a name that count no more: see events.fqdn.NameExpired."""

    endpoint: int
    name: str
    ips: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordAnswers:
    """Endpoints were told this; what they knew already is no news, and endpoints that are gone know nothing."""

    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireNames:
    """These addresses count no more; those that are not known did not count before."""

    names: tuple[Ended, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleAddresses:
    """The names of these addresses, or policies that select them, may have changed."""

    addresses: tuple[str, ...]


class Lookup(NamedTuple):
    """How an address of a name was learned."""

    ttl: int
    resolved_at_ns: int
    server: str


@dataclass(frozen=True, slots=True)
class FqdnState:
    """`answers`: endpoint → (name, address) → lookup; `named`: address → name → endpoints that were told so.

    `numbers`: address → identity, of those that have one; `users`: identity → how many addresses have it.
    """

    answers: Map[int, Map[tuple[str, str], Lookup]] = field(default_factory=Map)
    named: Map[str, Map[str, int]] = field(default_factory=Map)
    numbers: Map[str, int] = field(default_factory=Map)
    users: Map[int, int] = field(default_factory=Map)

    def names_of(self, endpoint: int, address: str) -> tuple[str, ...]:
        """The names that the endpoint knows the address by, in order."""
        held = self.answers.get(endpoint)
        if held is None:
            return ()
        return tuple(sorted(name for name in self.named.get(address, ()) if (name, address) in held))


_NOBODY: Final = Map[tuple[str, str], Lookup]()


def decide_record(command: RecordAnswers, state: FqdnState, endpoints: EndpointState) -> Decision:
    """One NameResolved for each answer that has an address which is new for the name."""
    decided: list[tuple[StreamId, Event]] = []
    for answer in command.answers:
        if answer.endpoint not in endpoints.by_id:
            continue
        held = state.answers.get(answer.endpoint, _NOBODY)
        new = tuple(ip for ip in dict.fromkeys(answer.ips) if (answer.name, ip) not in held)
        if not new or len(held) + len(new) > ADDRESSES_MAX:
            continue
        event = NameResolved(
            endpoint=answer.endpoint,
            name=answer.name,
            ips=new,
            ttl=answer.ttl,
            server=answer.server,
            resolved_at_ns=answer.at_ns,
        )
        decided.append((STREAM, event))
        state = evolve(state, event)
    return tuple(decided)


def decide_expire(command: ExpireNames, state: FqdnState) -> Decision:
    """One NameExpired for each name that has such addresses."""
    decided: list[tuple[StreamId, Event]] = []
    for one in command.names:
        held = state.answers.get(one.endpoint, _NOBODY)
        known = tuple(ip for ip in dict.fromkeys(one.ips) if (one.name, ip) in held)
        if known:
            event = NameExpired(endpoint=one.endpoint, name=one.name, ips=known, reason=one.reason)
            decided.append((STREAM, event))
            state = evolve(state, event)
    return tuple(decided)


def decide_settle(
    command: SettleAddresses,
    state: FqdnState,
    policies: PolicyState,
    services: ServiceState,
    identities: IdentityState,
    *,
    dual_stack: bool,
) -> Decision:
    """Every address has the identity that follows from names and policies; identities that nobody needs are free."""
    decided: list[tuple[StreamId, Event]] = []
    moved: dict[int, list[str]] = {}
    wanted = _labels(command.addresses, state, policies, services, dual_stack=dual_stack)
    for address, labels in wanted:
        number = 0
        if labels is not None:
            number, events = identity.allocate(identities, labels, local=True)
            for _, event in events:
                identities = identity.evolve(identities, event)  # type: ignore[arg-type]  # it decides these alone
            decided.extend(events)
        if number != state.numbers.get(address, 0):
            moved.setdefault(number, []).append(address)
    before = {state.numbers[one] for some in moved.values() for one in some if one in state.numbers}
    for number, addresses in moved.items():
        for event in _moves(number, tuple(addresses), state):
            decided.append((STREAM, event))
            state = evolve(state, event)
    for number in sorted(before - set(state.users)):
        decided.extend(identity.release(identities, number, users=0))
    return tuple(decided)


def _moves(
    number: int, addresses: tuple[str, ...], state: FqdnState
) -> Iterator[AddressesIdentified | AddressesForgotten]:
    if number:
        yield AddressesIdentified(identity=number, addresses=addresses)
        return
    held: dict[int, list[str]] = {}
    for one in addresses:
        held.setdefault(state.numbers[one], []).append(one)
    for former, some in sorted(held.items()):
        yield AddressesForgotten(identity=former, addresses=tuple(some))


def _labels(
    addresses: tuple[str, ...],
    state: FqdnState,
    policies: PolicyState,
    services: ServiceState,
    *,
    dual_stack: bool,
) -> Iterator[tuple[str, LabelSet | None]]:
    """Each address once with the labels that it has to have; None: no policy selects a name of it."""
    behind = by_services(policies, services)
    innermost = partial(
        _innermost, named=_Either(policies.prefixes, behind), lengths=_lengths(policies, len(addresses))
    )
    selected: dict[str, frozenset[str]] = {}  # name → selectors
    for address in dict.fromkeys(addresses):
        found: set[str] = set()
        for name in state.named.get(address, ()):
            if name not in selected:
                selected[name] = selectors_of(name, policies.names)
            found |= selected[name]
        if not found:
            yield address, None
            continue
        prefix = innermost(ip_address(address))
        world = Label(world_of(prefix.version, dual_stack=dual_stack).label_key, RESERVED)
        yield address, LabelSet((*(Label(one, FQDN) for one in found), cidr_label(prefix), world))


def selectors_of(name: str, rules: Iterable[DnsRule]) -> frozenset[str]:
    """The selectors that select the name, as labels have them."""
    return frozenset(str(rule) for rule in rules if rule.matches(name))


class _Either(Container[Prefix]):
    def __init__(self, *held: Container[Prefix]) -> None:
        self._held = held

    def __contains__(self, prefix: object) -> bool:
        return any(prefix in one for one in self._held)


def _lengths(policies: PolicyState, addresses: int) -> Mapping[int, tuple[int, ...]]:
    """By family, the lengths that prefixes of policies may have, longest first; an address alone is one.

    They are counted where that takes less time than it saves.
    """
    if len(policies.prefixes) > addresses * IPV6_BITS:
        return {4: tuple(range(IPV4_BITS, 0, -1)), 6: tuple(range(IPV6_BITS, 0, -1))}
    used: dict[int, set[int]] = {4: {IPV4_BITS}, 6: {IPV6_BITS}}
    for prefix in policies.prefixes:
        used[prefix.version].add(prefix.prefixlen)
    return {family: tuple(sorted(lengths, reverse=True)) for family, lengths in used.items()}


IPV4_BITS: Final = 32
IPV6_BITS: Final = 128


def _innermost(
    address: IPv4Address | IPv6Address, *, named: Container[Prefix], lengths: Mapping[int, tuple[int, ...]]
) -> Prefix:
    """The longest prefix around the address that is named; none is: everything."""
    for length in lengths[address.version]:
        prefix = prefix_around(address, length)
        if prefix in named:
            return prefix
    return prefix_around(address, 0)


def prefix_around(address: IPv4Address | IPv6Address, length: int) -> Prefix:
    """The prefix of that length that has the address."""
    spare = address.max_prefixlen - length
    number = int(address) >> spare << spare
    return IPv4Network((number, length)) if address.version == 4 else IPv6Network((number, length))


FqdnEvent = NameResolved | NameExpired | AddressesIdentified | AddressesForgotten


def evolve(state: FqdnState, event: FqdnEvent) -> FqdnState:
    """The state after one more fact, about an endpoint that is there."""
    match event:
        case NameResolved():
            return _resolved(state, event)
        case NameExpired():
            held = state.answers.get(event.endpoint, _NOBODY)
            return _without(state, event.endpoint, [(event.name, ip) for ip in event.ips if (event.name, ip) in held])
        case AddressesIdentified() | AddressesForgotten():
            return _identified(state, event)


def without_endpoint(state: FqdnState, endpoint: int) -> FqdnState:
    """The state when the endpoint is gone, and what it was told with it."""
    held = state.answers.get(endpoint)
    return state if held is None else _without(state, endpoint, list(held))


def _resolved(state: FqdnState, event: NameResolved) -> FqdnState:
    held = state.answers.get(event.endpoint, _NOBODY)
    named, lookup = state.named, Lookup(event.ttl, event.resolved_at_ns, event.server)
    for ip in event.ips:
        key = (event.name, ip)
        if key not in held:
            names = named.get(ip, Map[str, int]())
            named = named.set(ip, names.set(event.name, names.get(event.name, 0) + 1))
        held = held.set(key, lookup)
    return replace(state, answers=state.answers.set(event.endpoint, held), named=named)


def _without(state: FqdnState, endpoint: int, gone: list[tuple[str, str]]) -> FqdnState:
    if not gone:
        return state
    held, named = state.answers[endpoint], state.named
    for key in gone:
        name, ip = key
        held, names = held.delete(key), named[ip]
        names = names.set(name, names[name] - 1) if names[name] > 1 else names.delete(name)
        named = named.set(ip, names) if names else named.delete(ip)
    answers = state.answers.set(endpoint, held) if held else state.answers.delete(endpoint)
    return replace(state, answers=answers, named=named)


def _identified(state: FqdnState, event: AddressesIdentified | AddressesForgotten) -> FqdnState:
    numbers, users = state.numbers, state.users
    for address in event.addresses:
        former = numbers.get(address)
        if former is not None:
            left = users[former] - 1
            users = users.set(former, left) if left else users.delete(former)
            numbers = numbers.delete(address)
        if isinstance(event, AddressesIdentified):
            numbers = numbers.set(address, event.identity)
            users = users.set(event.identity, users.get(event.identity, 0) + 1)
    return replace(state, numbers=numbers, users=users)


def gathered(answers: Mapping[int, Mapping[tuple[str, str], Lookup]], numbers: Mapping[str, int]) -> FqdnState:
    """What `evolve` makes of facts that say this."""
    named: dict[str, dict[str, int]] = {}
    for held in answers.values():
        for name, ip in held:
            names = named.setdefault(ip, {})
            names[name] = names.get(name, 0) + 1
    users: dict[int, int] = {}
    for number in numbers.values():
        users[number] = users.get(number, 0) + 1
    return FqdnState(
        answers=Map({endpoint: Map(held.items()) for endpoint, held in answers.items() if held}),
        named=Map({ip: Map(names) for ip, names in named.items()}),
        numbers=Map(numbers),
        users=Map(users),
    )


def facts_of(
    answers: Mapping[int, Mapping[tuple[str, str], Lookup]], numbers: Mapping[str, int]
) -> Iterator[NameResolved | AddressesIdentified]:
    """The fewest facts that say what is so."""
    for endpoint, held in answers.items():
        together: dict[tuple[str, Lookup], list[str]] = {}
        for (name, ip), lookup in held.items():
            together.setdefault((name, lookup), []).append(ip)
        for (name, lookup), ips in together.items():
            ttl, at_ns, server = lookup
            yield NameResolved(
                endpoint=endpoint, name=name, ips=tuple(sorted(ips)), ttl=ttl, server=server, resolved_at_ns=at_ns
            )
    by_number: dict[int, list[str]] = {}
    for address, number in numbers.items():
        by_number.setdefault(number, []).append(address)
    for number, addresses in by_number.items():
        yield AddressesIdentified(identity=number, addresses=tuple(sorted(addresses)))
