"""The rule of a policy, as it was written and with every default filled in.

`None` and the empty tuple differ on purpose, as in the language: a term without peers is about anyone, a term with
an empty list of peers about nobody.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from cplane.domain.cidr import Prefix
from cplane.domain.labels import LabelSet
from cplane.domain.policy.dns import DnsRule
from cplane.domain.policy.redirect import Redirect
from cplane.domain.ports import PORT_MAX, NamedPort, Protocol
from cplane.domain.selectors import CidrSelector, LabelSelector, Selector
from cplane.domain.verdict import Direction

CNP = "CiliumNetworkPolicy"
CCNP = "CiliumClusterwideNetworkPolicy"
KNP = "NetworkPolicy"
CIDR_GROUP = "CiliumCIDRGroup"


class PolicyRef(NamedTuple):
    """The name of a policy; `namespace` is empty for cluster-wide kinds."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class PortMatch(NamedTuple):
    """Ports `first` to `last` of a protocol; ANY is every protocol that has ports."""

    protocol: Protocol
    first: int = 0
    last: int = PORT_MAX

    @property
    def is_whole_protocol(self) -> bool:
        """Whether the port does not matter."""
        return (self.first, self.last) == (0, PORT_MAX)


class IcmpMatch(NamedTuple):
    """Messages of one type; `protocol` is ICMP or ICMPV6."""

    protocol: Protocol
    type: int


L4Match = PortMatch | NamedPort | IcmpMatch
"""A NamedPort is the port that a container calls so: at ingress one of the subject's, at egress of the peer's."""


class GroupRef(NamedTuple):
    """The prefixes of CiliumCIDRGroups, by name or by their labels, without those in `excepts`."""

    name: str
    selector: LabelSelector | None = None
    excepts: tuple[Prefix, ...] = ()

    def __str__(self) -> str:
        found = f"group {self.name or self.selector}"
        return ",".join((found, *(f"!{hole}" for hole in self.excepts)))


class ServiceRef(NamedTuple):
    """The endpoints behind Kubernetes services, by name or by their labels; `namespace` empty: in any."""

    namespace: str
    name: str
    selector: LabelSelector | None = None

    def __str__(self) -> str:
        return f"service {self.namespace or '*'}/{self.name or self.selector}"

    def chooses(self, namespace: str, name: str, labels: LabelSet) -> bool:
        """Whether the service is one of those."""
        if self.namespace and namespace != self.namespace:
            return False
        return self.selector.matches(labels) if self.selector is not None else name == self.name


class CloudRef(NamedTuple):
    """Groups of a cloud provider, whose addresses nobody here knows."""

    text: str

    def __str__(self) -> str:
        return f"cloud group {self.text}"


Peer = Selector | GroupRef | ServiceRef | DnsRule | CloudRef
"""A DnsRule stands for the addresses that its names were resolved to."""


class AuthType(IntEnum):
    """How the two sides must have proved who they are; of several the higher number is asked for."""

    DISABLED = 0
    SPIRE = 1
    TEST_ALWAYS_FAIL = 2


@dataclass(frozen=True, slots=True)
class Term:
    """An element of `ingress`, `ingressDeny`, `egress` or `egressDeny`, at `path` in its document.

    `peers` None: anyone, if `l4` is given; a term with neither selects nothing. `l4` None: all traffic. An element of
    `toPorts` that asks for a `redirect` is a term of its own. `auth` None: not said.
    """

    path: str
    direction: Direction
    deny: bool
    peers: tuple[Peer, ...] | None
    l4: tuple[L4Match, ...] | None
    redirect: Redirect | None = None
    auth: AuthType | None = None


class DefaultDeny(NamedTuple):
    """For each direction, whether the rule makes everything denied that no rule allows."""

    ingress: bool
    egress: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """Whom it is about, what that one may receive and send, and its names in flows.

    `labels` are the user's and those that name the policy; `log` is the text that flows carry. `about_nodes`: the
    subject are nodes themselves, not endpoints (a host policy).
    """

    path: str
    subject: LabelSelector
    terms: tuple[Term, ...]
    default_deny: DefaultDeny
    labels: LabelSet
    description: str = ""
    log: str = ""
    about_nodes: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """A document that was accepted: `spec` first, then `specs`. `audit`: what it would drop passes, and is told."""

    ref: PolicyRef
    rules: tuple[Rule, ...]
    audit: bool = False

    def cidrs(self) -> frozenset[Prefix]:
        """Every prefix that needs an identity of its own, exceptions included; the whole world does not."""
        return frozenset(prefix for peer in self.peers() for prefix in _prefixes(peer) if prefix.prefixlen)

    def services(self) -> frozenset[ServiceRef]:
        """Every reference to services."""
        return frozenset(peer for peer in self.peers() if isinstance(peer, ServiceRef))

    def names(self) -> frozenset[DnsRule]:
        """Every selector of DNS names whose addresses are peers; one that selects nothing is none."""
        return frozenset(peer for peer in self.peers() if isinstance(peer, DnsRule) and str(peer) != "nothing")

    def peers(self) -> Iterator[Peer]:
        """All peers of all rules."""
        for rule in self.rules:
            for term in rule.terms:
                yield from term.peers or ()


@dataclass(frozen=True, slots=True)
class CidrGroup:
    """Prefixes under a name, for rules to refer to."""

    ref: PolicyRef
    labels: LabelSet
    prefixes: tuple[Prefix, ...]

    def cidrs(self) -> frozenset[Prefix]:
        """Every prefix that needs an identity of its own."""
        return frozenset(prefix for prefix in self.prefixes if prefix.prefixlen)

    def services(self) -> frozenset[ServiceRef]:
        """None: a group does not refer to services."""
        return frozenset()

    def names(self) -> frozenset[DnsRule]:
        """None: a group has no names."""
        return frozenset()


def _prefixes(peer: Peer) -> tuple[Prefix, ...]:
    if isinstance(peer, CidrSelector):
        return (peer.prefix, *peer.excepts)
    return peer.excepts if isinstance(peer, GroupRef) else ()
