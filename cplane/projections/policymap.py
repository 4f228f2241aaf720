"""The policy map: for each identity that has endpoints here, what its endpoints may receive and send."""

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, NamedTuple

from cplane.domain.identity import RESERVED_BY_NUMBER, NumericIdentity, Reserved, cidr_of_label, is_local, world_of
from cplane.domain.labelfilter import identity_labels
from cplane.domain.labels import LabelSet
from cplane.domain.policy import Policy, PolicyRef, parse_text
from cplane.domain.policy.mapstate import MapEntry, MapKey, MapState
from cplane.domain.policy.repository import Repository
from cplane.events.catalog import Event
from cplane.events.endpoint import EndpointCreated, EndpointDeleted, EndpointRelabelled
from cplane.events.identity import IdentityAllocated, IdentityReleased
from cplane.events.node import NodeJoined
from cplane.events.policy import PolicyDeleted, PolicyUpserted
from cplane.projections.delta import Delta
from datapath.maps.policy import PolicyEntry, PolicyKey

_WORLDS: Final = frozenset({Reserved.WORLD, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6})
_EVERYTHING: Final[Mapping[int, IPv4Network | IPv6Network]] = {
    4: ip_network("0.0.0.0/0"),
    6: ip_network("::/0"),
}
_CLUSTER: Final = "default"  # until the node has joined


class Overflow(NamedTuple):
    """A policy that needs more entries than it may have."""

    policy_id: int
    needed: int
    limit: int

    def __str__(self) -> str:
        return f"policy {self.policy_id} needs {self.needed} entries, the limit is {self.limit}"


class _Endpoint(NamedTuple):
    identity: int
    labels: tuple[str, ...]


class PolicyMapProjection:
    """Rows of `cplane_policy`; `policy_id` is the identity of the endpoints that obey the policy.

    Endpoints, identities, policies and the node may come in any order and give the same rows.
    """

    def __init__(self) -> None:
        self._repository = Repository()
        self._table: dict[PolicyKey, PolicyEntry] = {}
        self._counts: dict[int, int] = {}
        self._rows: dict[MapEntry | None, PolicyEntry | None] = {None: None}  # one object for equal entries
        self._before: dict[PolicyKey, PolicyEntry | None] = {}  # of rows that the current event has touched
        self._cluster = _CLUSTER
        self._documents: dict[PolicyRef, str] = {}
        self._labels: dict[int, tuple[str, ...]] = {}
        self._endpoints: dict[int, _Endpoint] = {}
        self._users: dict[int, dict[int, None]] = {}
        self._subject_labels: dict[int, LabelSet] = {}
        self._worlds: dict[int, IPv4Network | IPv6Network] = {}
        for reserved in Reserved:
            if reserved not in _WORLDS:
                self._repository.add_identity(reserved, reserved.labels)

    def table(self) -> Mapping[PolicyKey, PolicyEntry]:
        """All rows."""
        return self._table

    def entries_by_policy(self) -> Mapping[int, int]:
        """How many rows each policy has."""
        return self._counts

    def over_capacity(self, limit: int) -> tuple[Overflow, ...]:
        """The policies that need more than `limit` rows, by number."""
        return tuple(
            Overflow(policy_id, needed, limit) for policy_id, needed in sorted(self._counts.items()) if needed > limit
        )

    def state(self, policy_id: int) -> MapState | None:
        """What the rows of one policy follow from, to be read: it names the rules behind each."""
        return self._repository.state(policy_id)

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
                self._endpoint(event.endpoint, _Endpoint(event.identity, event.labels))
            case EndpointRelabelled() if event.endpoint in self._endpoints:
                self._endpoint(event.endpoint, _Endpoint(event.identity, event.labels))
            case EndpointDeleted():
                self._endpoint(event.endpoint, None)
            case PolicyUpserted():
                self._policy(PolicyRef(event.kind, event.namespace, event.name), event.document)
            case PolicyDeleted():
                self._policy(PolicyRef(event.kind, event.namespace, event.name), None)
            case _:
                return Delta.nothing()
        return self._delta()

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
                self._repository.upsert(self._parse(ref, document))

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
        self._settle_subject(number)

    def _endpoint(self, endpoint: int, now: _Endpoint | None) -> None:
        held = self._endpoints.pop(endpoint, None)
        if now is not None:
            self._endpoints[endpoint] = now
            self._users.setdefault(now.identity, {})[endpoint] = None
        if held is not None and (now is None or held.identity != now.identity):
            users = self._users[held.identity]
            del users[endpoint]
            if not users:
                del self._users[held.identity]
            self._settle_subject(held.identity)
        if now is not None:
            self._settle_subject(now.identity)

    def _settle_subject(self, number: int) -> None:
        """The identity is a subject exactly while endpoints have it, with the labels that it stands for."""
        labels = self._labels_of_subject(number)
        held = self._subject_labels.get(number)
        if labels == held:
            return
        if held is not None:
            del self._subject_labels[number]
            state = self._repository.remove_subject(number)
            for key in state.keys() if state is not None else ():
                self._write(number, key, None)
        if labels is not None:
            self._subject_labels[number] = labels
            self._repository.add_subject(number, labels)

    def _labels_of_subject(self, number: int) -> LabelSet | None:
        users = self._users.get(number)
        if users is None:
            return None
        if number in self._labels:
            return LabelSet.parse(self._labels[number])
        reserved = RESERVED_BY_NUMBER.get(NumericIdentity(number))
        if reserved is not None:
            return reserved.labels
        # Not allocated (yet, or any more): what its endpoints say.
        return identity_labels(LabelSet.parse(self._endpoints[min(users)].labels))

    def _policy(self, ref: PolicyRef, document: str | None) -> None:
        if document is None:
            self._documents.pop(ref, None)
            self._repository.delete(ref)
        else:
            self._documents[ref] = document
            self._repository.upsert(self._parse(ref, document))

    def _parse(self, ref: PolicyRef, document: str) -> Policy:
        policy = parse_text(document, cluster=self._cluster)
        assert policy.ref == ref, f"the document of {ref} calls itself {policy.ref}"
        return policy

    def _delta(self) -> Delta[PolicyKey, PolicyEntry]:
        rows = self._rows
        for policy_id, state in self._repository.changed():
            for key, entry in state.changes():
                if entry is not None and entry not in rows:
                    rows[entry] = PolicyEntry(entry.deny, entry.precedence, entry.l4_bits)
                self._write(policy_id, key, rows[entry])
        if not self._before:
            return Delta.nothing()
        touched, self._before = self._before, {}
        return Delta.between(*_changed(touched, self._table))

    def _write(self, policy_id: int, key: MapKey, row: PolicyEntry | None) -> None:
        full = PolicyKey(policy_id, *key)
        held = self._table.get(full)
        if held == row:
            return
        self._before.setdefault(full, held)
        if row is not None:
            self._table[full] = row
            if held is None:
                self._counts[policy_id] = self._counts.get(policy_id, 0) + 1
            return
        del self._table[full]
        self._counts[policy_id] -= 1
        if not self._counts[policy_id]:
            del self._counts[policy_id]


def _changed(
    touched: Mapping[PolicyKey, PolicyEntry | None], table: Mapping[PolicyKey, PolicyEntry]
) -> tuple[dict[PolicyKey, PolicyEntry], dict[PolicyKey, PolicyEntry]]:
    """What the rows that differ held before and hold after."""
    before, after = {}, {}
    for key, held in touched.items():
        now = table.get(key)
        if now != held:
            if held is not None:
                before[key] = held
            if now is not None:
                after[key] = now
    return before, after


def _prefix(number: int, labels: LabelSet) -> IPv4Network | IPv6Network | None:
    """What an identity of the local scope stands for; others stand for no prefix."""
    if not is_local(NumericIdentity(number)):
        return None
    return next(_prefixes(labels), None)


def _prefixes(labels: LabelSet) -> Iterator[IPv4Network | IPv6Network]:
    for label in labels:
        prefix = cidr_of_label(label)
        if prefix is not None:
            yield prefix
