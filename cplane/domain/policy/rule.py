"""The rule of a policy, as it was written and with every default filled in.

`None` and the empty tuple differ on purpose, as in the language: a term without peers is about anyone, a term with
an empty list of peers about nobody.
"""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from cplane.domain.labels import LabelSet
from cplane.domain.ports import PORT_MAX, Protocol
from cplane.domain.selectors import CidrSelector, LabelSelector, Selector
from cplane.domain.verdict import Direction

CNP = "CiliumNetworkPolicy"
CCNP = "CiliumClusterwideNetworkPolicy"


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


L4Match = PortMatch | IcmpMatch


@dataclass(frozen=True, slots=True)
class Term:
    """One element of `ingress`, `ingressDeny`, `egress` or `egressDeny`, at `path` in its document.

    `peers` None: anyone, if `l4` is given; a term with neither selects nothing. `l4` None: all traffic.
    """

    path: str
    direction: Direction
    deny: bool
    peers: tuple[Selector, ...] | None
    l4: tuple[L4Match, ...] | None


class DefaultDeny(NamedTuple):
    """For each direction, whether the rule makes everything denied that no rule allows."""

    ingress: bool
    egress: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """Whom it is about, what that one may receive and send, and its names in flows.

    `labels` are the user's and those that name the policy; `log` is the text that flows carry.
    """

    path: str
    subject: LabelSelector
    terms: tuple[Term, ...]
    default_deny: DefaultDeny
    labels: LabelSet
    description: str = ""
    log: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """A document that was accepted: `spec` first, then `specs`."""

    ref: PolicyRef
    rules: tuple[Rule, ...]

    def cidrs(self) -> frozenset[IPv4Network | IPv6Network]:
        """Every prefix that needs an identity of its own, exceptions included; the whole world does not."""
        return frozenset(
            prefix
            for rule in self.rules
            for term in rule.terms
            for peer in term.peers or ()
            if isinstance(peer, CidrSelector)
            for prefix in (peer.prefix, *peer.excepts)
            if prefix.prefixlen
        )
