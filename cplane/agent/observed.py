"""What the flow parser asks: who is behind an address, a number or a verdict, by the state of this moment."""

import socket
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import ip_address
from itertools import islice

from immutables import Map

from cplane.agent.frontends import FrontendNames
from cplane.domain.endpoint import Endpoint
from cplane.domain.identity import RESERVED_BY_NUMBER, NumericIdentity, Reserved
from cplane.domain.labels import K8S
from cplane.domain.policy import Rule
from cplane.domain.policy.repository import AUDIT_PLANE
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.verdict import Direction
from cplane.engine.engine import Engine
from cplane.hubble.attribution import NO_POLICY, POLICIES_MAX, Attribution, PolicyMeta
from cplane.hubble.endpoint import Service
from cplane.hubble.parser.getters import EndpointInfo, NetnsOwner
from cplane.projections.tables import IPCACHE, LXC
from datapath.maps.endpoints import EndpointKey
from datapath.maps.ipcache import FAMILY_V4, FAMILY_V6, IpcacheKey

_POLICY = "io.cilium.k8s.policy."  # before the keys of what a rule has from its policy
_FAMILIES = {4: FAMILY_V4, 6: FAMILY_V6}
_RESERVED_LABELS = {number: reserved.labels.texts() for number, reserved in RESERVED_BY_NUMBER.items()}


class Observed:
    """Hubble's getters over the engine's world."""

    def __init__(self, engine: Engine, own_netns: int = 0) -> None:
        """`own_netns` is the cookie of the node's network namespace; 0: no sockets are recorded."""
        self._engine, self._own_netns = engine, own_netns
        self._names = FrontendNames()
        self._indexed: Map[int, Endpoint] = Map()
        self._by_netns: dict[int, Endpoint] = {}

    @property
    def revision(self) -> int:
        """Grows with every event."""
        return self._engine.head

    def identity_labels(self, number: int) -> tuple[str, ...]:
        """Labels of an identity as `source:key=value`; empty for an unknown one."""
        reserved = _RESERVED_LABELS.get(NumericIdentity(number))
        if reserved is not None:
            return reserved
        held = self._engine.world.identities.get(number)
        return held.texts() if held is not None else ()

    def endpoint_by_id(self, endpoint_id: int) -> EndpointInfo | None:
        """The local endpoint of that id."""
        held = self._engine.world.endpoints.get(endpoint_id)
        return None if held is None else self._info(held)

    def endpoint_by_address(self, family: int, address: bytes) -> EndpointInfo | None:
        """The pod behind an address; `family` is 4 or 6, `address` has 4 or 16 bytes."""
        key = EndpointKey(_FAMILIES[family], address.ljust(16, b"\0"))
        row = self._engine.desired(LXC).get(key)
        return None if row is None else self.endpoint_by_id(row.lxc_id)

    def names_of(self, family: int, address: bytes) -> Mapping[int, tuple[str, ...]]:  # the port's shape
        """By endpoint, the names that it was told the address for, without the dot at their ends."""
        state = self._engine.world.fqdn
        if not state.named:
            return {}
        text = str(ip_address(address))
        if text not in state.named:
            return {}
        return {
            endpoint: tuple(name.removesuffix(".") for name in names)
            for endpoint in state.answers
            if (names := state.names_of(endpoint, text))
        }

    def services_at(self, family: int, address: bytes) -> Mapping[tuple[int, int], Service]:
        """By protocol and port, the services of the address; empty for most addresses."""
        on_node = self.identity_at(family, address) == Reserved.HOST
        return self._names.at(self._engine.world.service.frontends, address, on_node=on_node)

    def addresses_of_cgroup(self, cgroup: int) -> tuple[bytes, ...]:
        """None: our programs know pods by their devices, so nobody tells an agent of control groups."""
        return ()

    def owner_of_netns(self, cookie: int) -> NetnsOwner | None:
        """Whose network namespace has this cookie; None for a stranger's."""
        if not cookie:
            return None
        if cookie == self._own_netns:
            return NetnsOwner(0, Reserved.HOST, self._own_addresses())
        endpoints = self._engine.world.endpoint.by_id
        if endpoints is not self._indexed:
            self._by_netns = {one.netns_cookie: one for one in endpoints.values() if one.netns_cookie}
            self._indexed = endpoints
        held = self._by_netns.get(cookie)
        if held is None:
            return None
        return NetnsOwner(held.id, held.identity, tuple(ip_address(one).packed for one in held.addresses))

    def identity_at(self, family: int, address: bytes) -> int:
        """The identity of exactly this address, local or not; 0 where only prefixes around it are known."""
        key = IpcacheKey(_FAMILIES[family], address.ljust(16, b"\0"), 8 * len(address))
        row = self._engine.desired(IPCACHE).get(key)
        return 0 if row is None else int(row.identity)

    def identity_within(self, family: int, address: bytes) -> int:
        """The identity that the kernel has for the address, which may be that of a prefix around it; 0: unknown."""
        rows, number = self._engine.desired(IPCACHE), int.from_bytes(address, "big")
        bits, kind = 8 * len(address), _FAMILIES[family]
        for free in range(bits + 1):
            prefix = (number >> free << free).to_bytes(len(address), "big").ljust(16, b"\0")
            row = rows.get(IpcacheKey(kind, prefix, bits - free))
            if row is not None:
                return int(row.identity)
        return 0

    def _own_addresses(self) -> tuple[bytes, ...]:
        """Of pods' gateways, which every node has."""
        node = self._engine.world.node
        routers = (node.ipv4_router, node.ipv6_router) if node is not None else ()
        return tuple(ip_address(one).packed for one in routers if one)

    def interface_name(self, index: int) -> str:
        """Name of the device; empty for an unknown one."""
        return _name_of(index, self._engine.head)

    def host_interface(self, index: int) -> str:
        """What the log calls the device of that number; empty if it knows none."""
        return next((e.host_interface for e in self._engine.world.endpoints.values() if e.host_ifindex == index), "")

    def decided_by(self, cookie: int) -> Attribution:
        """The rules that the cookie of a policy entry stands for; nobody's for an unknown one."""
        return self._attribution(self._engine.policies.rules(cookie))

    def policies_named(self, refs: Iterable[PolicyRef]) -> Attribution:
        """The policies of these names; without labels where there is none any more."""
        revision = self._engine.world.policy_revision
        named: dict[PolicyMeta, None] = {}
        told: dict[str, None] = {}
        for ref in refs:
            found = self._attribution(one.rule for one in self._engine.policies.rules_of(ref))
            named |= dict.fromkeys(found.policies or (PolicyMeta(*ref, (), revision),))
            told |= dict.fromkeys(found.log)
        return Attribution(tuple(islice(named, POLICIES_MAX)), tuple(islice(told, POLICIES_MAX)))

    def denied_by_default(self, endpoint_id: int, *, egress: bool, audited: bool) -> Attribution:
        """The rules that ask for default deny at a local endpoint; nobody's where no rule does.

        `audited`: the packet passed all the same, so they may be rules that are only audited. Where default deny is
        enforced they are not: what is allowed there is allowed in the audit plane too.
        """
        held = self._engine.world.endpoints.get(endpoint_id)
        direction = Direction.EGRESS if egress else Direction.INGRESS
        state = self._engine.policies.state(held.policy_id) if held is not None else None
        if held is not None and state is not None and audited and not state.is_enforced(direction):
            state = self._engine.policies.state(held.policy_id | AUDIT_PLANE)
        return NO_POLICY if state is None else self._attribution(one.rule for one in state.demanding(direction))

    def _attribution(self, rules: Iterable[Rule]) -> Attribution:
        revision = self._engine.world.policy_revision
        found = tuple(rules)
        named = dict.fromkeys(_policy_meta(rule, revision) for rule in found)
        told = dict.fromkeys(rule.log for rule in found if rule.log)
        return Attribution(tuple(islice(named, POLICIES_MAX)), tuple(islice(told, POLICIES_MAX)))

    def _info(self, endpoint: Endpoint) -> EndpointInfo:
        return EndpointInfo(
            endpoint_id=endpoint.id,
            namespace=endpoint.namespace,
            pod_name=endpoint.pod,
            cluster=self._engine.world.cluster,
            identity=endpoint.identity,
        )


def _policy_meta(rule: Rule, revision: int) -> PolicyMeta:
    """As Hubble makes it: of the labels that every rule has from its policy."""
    said = {label.key: label.value for label in rule.labels if label.source == K8S}
    kind, namespace, name = (said.get(_POLICY + key, "") for key in ("derived-from", "namespace", "name"))
    texts = tuple(text.removesuffix("=") for text in rule.labels.texts())
    return PolicyMeta(kind, namespace, name, texts, revision)


@lru_cache(maxsize=4096)
def _name_of(index: int, _revision: int) -> str:
    """Interfaces of pods come and go with events, so a name is asked for once per position."""
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:
        return ""
