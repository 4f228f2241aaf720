"""The policy map: what the endpoints here may receive and send, by the policy that they obey."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, NamedTuple

from cplane.domain.identity import RESERVED_BY_NUMBER, NumericIdentity, Reserved, is_local, prefix_of, world_of
from cplane.domain.labelfilter import identity_labels
from cplane.domain.labels import LabelSet
from cplane.domain.policy import CIDR_GROUP, CidrGroup, Policy, PolicyRef, Rule, parse_text
from cplane.domain.policy.directory import Service, service_labels
from cplane.domain.policy.mapstate import MapEntry, MapKey, MapState, Origin
from cplane.domain.policy.redirection import Redirection
from cplane.domain.policy.repository import AUDIT_PLANE, Enforcement, Repository
from cplane.domain.policy.resolve import ResolvedRule, is_redirect
from cplane.domain.ports import NamedPorts, parse_named_ports
from cplane.events.catalog import Event
from cplane.events.config import OptionsChanged
from cplane.events.endpoint import EndpointCreated, EndpointDeleted, EndpointRelabelled
from cplane.events.identity import IdentityAllocated, IdentityReleased
from cplane.events.node import NodeJoined
from cplane.events.policy import PolicyDeleted, PolicyUpserted
from cplane.events.service import BackendsChanged, ServiceDeleted, ServiceUpserted
from cplane.projections.cookies import Cookies
from cplane.projections.delta import Delta
from cplane.projections.redirects import RedirectKey, Redirects
from datapath.maps import policy as policy_map
from datapath.maps.policy import PolicyEntry, PolicyKey
from datapath.maps.spread import Groups, Spread

_WORLDS: Final = frozenset({Reserved.WORLD, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6})
_EVERYTHING: Final[Mapping[int, IPv4Network | IPv6Network]] = {
    4: ip_network("0.0.0.0/0"),
    6: ip_network("::/0"),
}
_CLUSTER: Final = "default"  # until the node has joined
_NO_PORTS: Final[NamedPorts] = frozenset()
_Change = tuple[tuple[int, ...], MapKey, MapEntry | None, MapEntry | None]

assert policy_map.AUDIT_PLANE == AUDIT_PLANE, "the domain and the map agree on the number of the audit plane"


class _Endpoint(NamedTuple):
    identity: int
    policy: int
    labels: tuple[str, ...]
    ports: NamedPorts


class _Rows(Mapping[PolicyKey, PolicyEntry]):
    """The rows that follow from what states have told. They are made when they are read: most are shared by many."""

    def __init__(self, states: Mapping[int, MapState], redirects: Redirects) -> None:
        self._states, self._redirects = states, redirects
        self._made: dict[MapEntry, PolicyEntry] = {}  # one object for equal entries

    def row(self, entry: MapEntry) -> PolicyEntry:
        """The row that an entry is, whoever's, which asks for no proxy."""
        found = self._made.get(entry)
        if found is None:
            found = self._made[entry] = _row(entry, 0)
        return found

    def row_of(self, policy_id: int, key: MapKey, entry: MapEntry) -> PolicyEntry:
        """The row that a policy's entry is."""
        if not is_redirect(entry.precedence):
            return self.row(entry)
        return _row(entry, self._redirects.port(policy_id, key))

    def cookies(self) -> set[int]:
        """Those of all rows, and rows that were made earlier are forgotten."""
        self._made = {}
        return {entry.cookie for state in set(self._states.values()) for entry in state.told.values()}

    def __getitem__(self, key: PolicyKey) -> PolicyEntry:
        state, place = self._states.get(key.policy_id), MapKey(*key[1:])
        entry = state.told.get(place) if state is not None else None
        if entry is None:
            raise KeyError(key)
        return self.row_of(key.policy_id, place, entry)

    def __iter__(self) -> Iterator[PolicyKey]:
        return (PolicyKey(number, *key) for number, state in self._states.items() for key in state.told)

    def __len__(self) -> int:
        return sum(len(state.told) for state in self._states.values())


class PolicyMapProjection:
    """Rows of `cplane_policy`; `policy_id` is the identity of the endpoints that obey the policy.

    Endpoints that call other ports by the same names than others of their identity obey a policy of their own.
    Endpoints, identities, policies and the node may come in any order and give the same rows.
    """

    def __init__(self) -> None:
        self._repository = Repository()
        self._redirects = Redirects(self._repository.state)
        self._rows = _Rows(self._repository.states(), self._redirects)
        self._cookies = Cookies()
        self._cluster = _CLUSTER
        self._gathering = False  # there is something that `gathered` would tell
        self._asking: dict[PolicyRef, None] = {}  # policies that ask for a proxy
        self._documents: dict[PolicyRef, str] = {}
        self._described: dict[tuple[str, str], ServiceUpserted] = {}
        self._sources: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {}  # addresses of backends
        self._services: dict[tuple[str, str], Service] = {}  # as rules refer to them
        self._labels: dict[int, tuple[str, ...]] = {}
        self._endpoints: dict[int, _Endpoint] = {}
        self._users: dict[int, dict[int, None]] = {}  # policy → endpoints that obey it
        self._members: dict[int, dict[int, None]] = {}  # identity → endpoints that have it
        self._with_ports: dict[int, dict[int, NamedPorts]] = {}  # identity → endpoints that have named ports
        self._subjects: dict[int, tuple[LabelSet, NamedPorts]] = {}
        self._worlds: dict[int, IPv4Network | IPv6Network] = {}
        for reserved in Reserved:
            if reserved not in _WORLDS:
                self._repository.add_identity(reserved, reserved.labels)

    def table(self) -> Mapping[PolicyKey, PolicyEntry]:
        """All rows."""
        return self._rows

    def copy(self) -> Spread:
        """All rows as they are now, held once for policies that have them alike."""
        members: dict[tuple[MapState, int], list[int]] = {}
        for number, state in self._repository.states().items():
            members.setdefault((state, number if state.asks_for_proxies else 0), []).append(number)
        row = self._rows.row_of
        rows = {
            PolicyKey(alike[0], *key): row(alike[0], key, entry)
            for (state, _), alike in members.items()
            for key, entry in state.told.items()
        }
        return Spread(rows, {alike[0]: tuple(alike) for alike in members.values()})

    def entries_by_policy(self) -> Mapping[int, int]:
        """How many rows each policy has, its audit plane apart."""
        return {number: len(state.told) for number, state in self._repository.states().items()}

    def redirections(self) -> Mapping[RedirectKey, Redirection]:
        """What each proxy port is for that a row names."""
        return self._redirects.table()

    def redirected(self) -> Delta[RedirectKey, Redirection]:
        """What has changed of that since it was asked last."""
        return self._redirects.delta()

    @property
    def repository(self) -> Repository:
        """What all rows follow from, to be read, and to judge by; subjects are numbers of policies here."""
        return self._repository

    def state(self, policy_id: int) -> MapState | None:
        """What the rows of one policy follow from, to be read: it names the rules behind each."""
        return self._repository.state(policy_id)

    def rules_of(self, ref: PolicyRef) -> tuple[ResolvedRule, ...]:
        """The rules of a policy, in their order; their subjects are numbers of policies here."""
        return self._repository.rules_of(ref)

    def obeying(self, policy_id: int) -> Collection[int]:
        """The endpoints that obey a policy."""
        return self._users.get(policy_id, {})

    def origins(self, cookie: int) -> tuple[Origin, ...]:
        """The terms that a cookie stands for; none for one that no row has had lately."""
        return self._cookies.origins(cookie)

    def rules(self, cookie: int) -> tuple[Rule, ...]:
        """The rules that have those terms, as they read now or, when they are gone, as they did last."""
        return self._cookies.rules(cookie)

    def gather(self, event: PolicyUpserted) -> bool:
        """Takes the event in, and `gathered` has what it changes; False: nothing was done, and it is for `apply`.

        Rows are made once for a thousand policies then. Where there are proxies, ports follow the order of events.
        """
        if self._asking:
            return False
        ref = PolicyRef(event.kind, event.namespace, event.name)
        found = self._parse(ref, event.document)
        if isinstance(found, CidrGroup) or _asks_for_proxy(found):
            return False
        self._documents[ref] = event.document
        self._hold(found)
        self._gathering = True
        return True

    def gathered(self) -> Delta[PolicyKey, PolicyEntry]:
        """What all that was gathered since this was asked last changes."""
        if not self._gathering:
            return Delta.nothing()
        self._gathering = False
        return self._delta()

    def apply(self, event: Event) -> Delta[PolicyKey, PolicyEntry]:
        """What the event changes."""
        match event:
            case NodeJoined() if event.local:
                self._join(event)
            case IdentityAllocated():
                self._identity(event.number, event.labels)
            case IdentityReleased():
                self._identity(event.number, None)
            case EndpointCreated():
                policy, ports = event.policy or event.identity, parse_named_ports(event.named_ports)
                self._endpoint(event.endpoint, _Endpoint(event.identity, policy, event.labels, ports))
            case EndpointRelabelled() if event.endpoint in self._endpoints:
                policy, ports = event.policy or event.identity, self._endpoints[event.endpoint].ports
                self._endpoint(event.endpoint, _Endpoint(event.identity, policy, event.labels, ports))
            case EndpointDeleted():
                self._endpoint(event.endpoint, None)
            case PolicyUpserted():
                ref = PolicyRef(event.kind, event.namespace, event.name)
                self._policy(ref, event.document)
                delta = self._delta()
                self._redirects.rewrite(ref)
                return delta
            case PolicyDeleted():
                self._policy(PolicyRef(event.kind, event.namespace, event.name), None)
            case OptionsChanged():
                self._repository.set_enforcement(Enforcement.read(event.policy_enforcement))
            case ServiceUpserted() | ServiceDeleted() | BackendsChanged():
                if not self._service(event):
                    return Delta.nothing()
            case _:
                return Delta.nothing()
        return self._delta()

    def _service(self, event: ServiceUpserted | ServiceDeleted | BackendsChanged) -> bool:
        """What rules may refer to by the service's name or labels; whether that is something else now."""
        if isinstance(event, BackendsChanged):
            name = (event.namespace, event.service)
            sources = self._sources.setdefault(name, {})
            sources.pop(event.source, None)
            if event.backends:
                sources[event.source] = tuple(one.address for one in event.backends)
            elif not sources:
                del self._sources[name]
        else:
            name = (event.namespace, event.name)
            self._described.pop(name, None)
            if isinstance(event, ServiceUpserted):
                self._described[name] = event
        described = self._described.get(name)
        now = None if described is None else self._referred(name, described)
        if now == self._services.get(name):
            return False
        if now is None:
            del self._services[name]
            self._repository.remove_service(*name)
        else:
            self._services[name] = now
            self._repository.set_service(now)
        return True

    def _referred(self, name: tuple[str, str], described: ServiceUpserted) -> Service:
        selector = tuple(sorted(_pair(text) for text in described.selector))
        labels = service_labels(described.labels)
        addresses = {one for some in self._sources.get(name, {}).values() for one in some}
        return Service(*name, labels, selector, () if selector else tuple(sorted(addresses)))

    def _join(self, event: NodeJoined) -> None:
        families = [family for family, cidr in ((4, event.ipv4_pod_cidr), (6, event.ipv6_pod_cidr)) if cidr]
        worlds = {int(world_of(family, dual_stack=len(families) > 1)): _EVERYTHING[family] for family in families}
        if worlds != self._worlds:
            for number in self._worlds:
                self._repository.remove_identity(number)
            for number, prefix in worlds.items():
                self._repository.add_identity(number, Reserved(number).labels, prefix)
            self._worlds = worlds
        if event.cluster != self._cluster:
            self._cluster = event.cluster
            for ref, document in self._documents.items():
                self._put(ref, document)
            self._redirects.rewrite_all()

    def _identity(self, number: int, labels: tuple[str, ...] | None) -> None:
        if self._labels.get(number) == labels:
            return
        if number in self._labels:
            del self._labels[number]
            self._repository.remove_identity(number)
        if labels is not None:
            self._labels[number] = labels
            label_set = LabelSet.parse(labels)
            self._repository.add_identity(number, label_set, _prefix(number, label_set))
        for policy in {self._endpoints[one].policy for one in self._members.get(number, {})}:
            self._settle_subject(policy)

    def _endpoint(self, endpoint: int, now: _Endpoint | None) -> None:
        held = self._endpoints.pop(endpoint, None)
        if held is not None:
            _drop(self._users, held.policy, endpoint)
            _drop(self._members, held.identity, endpoint)
        if now is not None:
            self._endpoints[endpoint] = now
            self._users.setdefault(now.policy, {})[endpoint] = None
            self._members.setdefault(now.identity, {})[endpoint] = None
        self._settle_ports(endpoint, held, now)
        for policy in dict.fromkeys(one.policy for one in (held, now) if one is not None):
            self._settle_subject(policy)

    def _settle_ports(self, endpoint: int, held: _Endpoint | None, now: _Endpoint | None) -> None:
        """An identity has the named ports of all of its endpoints."""
        for one, present in ((held, False), (now, True)):
            if one is None or not one.ports:
                continue
            ports = self._with_ports.setdefault(one.identity, {})
            if present:
                ports[endpoint] = one.ports
            else:
                del ports[endpoint]
        for number in {one.identity for one in (held, now) if one is not None and one.ports}:
            ports = self._with_ports[number]
            self._repository.set_ports(number, _NO_PORTS.union(*ports.values()))
            if not ports:
                del self._with_ports[number]

    def _settle_subject(self, number: int) -> None:
        """A policy is there exactly while endpoints obey it, for the labels that their identity stands for."""
        wanted = self._subject(number)
        held = self._subjects.get(number)
        if wanted == held:
            return
        if held is not None:
            del self._subjects[number]
            self._repository.remove_subject(number)
        if wanted is not None:
            self._subjects[number] = wanted
            self._repository.add_subject(number, *wanted)

    def _subject(self, number: int) -> tuple[LabelSet, NamedPorts] | None:
        users = self._users.get(number)
        if users is None:
            return None
        one = self._endpoints[min(users)]
        if one.identity in self._labels:
            return LabelSet.parse(self._labels[one.identity]), one.ports
        reserved = RESERVED_BY_NUMBER.get(NumericIdentity(one.identity))
        if reserved is not None:
            return reserved.labels, one.ports
        # Not allocated (yet, or any more): what its endpoints say.
        return identity_labels(LabelSet.parse(one.labels)), one.ports

    def _policy(self, ref: PolicyRef, document: str | None) -> None:
        if document is not None:
            self._documents[ref] = document
            self._put(ref, document)
            return
        self._documents.pop(ref, None)
        self._asking.pop(ref, None)
        if ref.kind == CIDR_GROUP:
            self._repository.set_group(ref.name, None)
        else:
            self._repository.delete(ref)

    def _put(self, ref: PolicyRef, document: str) -> None:
        self._hold(self._parse(ref, document))

    def _hold(self, found: Policy | CidrGroup) -> None:
        if isinstance(found, CidrGroup):
            self._repository.set_group(found.ref.name, found)
            return
        self._cookies.write(found, self._documents)
        self._repository.upsert(found)
        self._asking.pop(found.ref, None)
        if _asks_for_proxy(found):
            self._asking[found.ref] = None

    def _parse(self, ref: PolicyRef, document: str) -> Policy | CidrGroup:
        found = parse_text(document, cluster=self._cluster)
        assert found.ref == ref, f"the document of {ref} calls itself {found.ref}"
        return found

    def _delta(self) -> Delta[PolicyKey, PolicyEntry]:
        row, cookies = self._rows.row, self._cookies
        before: dict[PolicyKey, PolicyEntry] = {}
        after: dict[PolicyKey, PolicyEntry] = {}
        changes = list(self._repository.changes())
        if not changes:
            return Delta.nothing()
        for numbers, key, _, now in changes:
            if now is not None and now.cookie and now.cookie not in cookies:
                state = self._repository.state(numbers[0])
                assert state is not None, f"an entry of policy {numbers[0]} without its state"
                cookies.add(now.cookie, state.makers(key))
        if cookies.is_full(self._rows):
            cookies.keep(self._rows.cookies())
        if any(_asks(was) or _asks(now) for _, _, was, now in changes):
            return self._proxied_delta(changes)
        groups = _groups(numbers for numbers, _, _, _ in changes)
        for numbers, key, was, now in changes:
            for number in numbers if groups is None else numbers[:1]:
                full = PolicyKey(number, *key)
                if was is not None:
                    before[full] = row(was)
                if now is not None:
                    after[full] = row(now)
        if groups is None:
            return Delta(before, after)
        return Delta(Spread(before, groups), Spread(after, groups))

    def _proxied_delta(self, changes: Collection[_Change]) -> Delta[PolicyKey, PolicyEntry]:
        """The same where proxies are asked for: a port is one policy's alone, and may change beside an entry."""
        row, redirects = self._rows.row_of, self._redirects
        each = [
            (PolicyKey(number, *key), number, key, was, now) for numbers, key, was, now in changes for number in numbers
        ]
        before = {full: row(number, key, was) for full, number, key, was, _ in each if was is not None}
        for _, number, key, was, now in each:
            if _group(was) or _group(now):
                redirects.change(number, key, _group(now))
        others = {PolicyKey(number, *key): (number, key, port) for number, key, port in redirects.settle()}
        after = {full: row(number, key, now) for full, number, key, _, now in each if now is not None}
        for full in others.keys() - {full for full, *_ in each}:
            number, key, port = others[full]
            state = self._repository.state(number)
            assert state is not None, f"an entry of policy {number} without its state"
            before[full], after[full] = _row(state.told[key], port), row(number, key, state.told[key])
        for full in [full for full in before if before[full] == after.get(full)]:
            del before[full], after[full]
        return Delta(before, after)


def _group(entry: MapEntry | None) -> int:
    return entry.group if entry is not None else 0


def _asks(entry: MapEntry | None) -> bool:
    return entry is not None and is_redirect(entry.precedence)


def _asks_for_proxy(one: Policy) -> bool:
    return any(term.redirect is not None for rule in one.rules for term in rule.terms)


def _groups(found: Iterable[tuple[int, ...]]) -> Groups | None:
    """The subjects that are alike in all that changes, by the first of each; None when nobody is like another."""
    groups = dict.fromkeys(found)
    numbers = {number for group in groups for number in group}
    if len(numbers) == len(groups) or len(numbers) < sum(map(len, groups)):
        return None
    return {group[0]: group for group in groups}


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def _drop(index: dict[int, dict[int, None]], key: int, endpoint: int) -> None:
    del index[key][endpoint]
    if not index[key]:
        del index[key]


def _row(entry: MapEntry, proxy_port: int) -> PolicyEntry:
    return PolicyEntry(
        deny=entry.deny,
        precedence=entry.precedence,
        l4_bits=entry.l4_bits,
        cookie=entry.cookie,
        proxy_port=proxy_port,
        auth_type=entry.auth_type,
        auth_said=entry.auth_said,
        audited=entry.audited,
    )


def _prefix(number: int, labels: LabelSet) -> IPv4Network | IPv6Network | None:
    """What an identity of the local scope stands for; others stand for no prefix."""
    if not is_local(NumericIdentity(number)):
        return None
    return prefix_of(labels)
