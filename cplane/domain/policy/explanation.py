"""What is said of a verdict: the traffic, the peer, the rules that decided, and the reason in words."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

from cplane.domain.labels import CLUSTER_KEY, NAMESPACE_LABELS_PREFIX, SERVICE_ACCOUNT_KEY, LabelSet
from cplane.domain.policy.resolve import Contribution, ResolvedRule
from cplane.domain.policy.rule import IcmpMatch, L4Match, PolicyRef, PortMatch
from cplane.domain.ports import NamedPort, Protocol
from cplane.domain.verdict import Direction

NAMED_MAX: Final = 3  # policies or rules that a reason names; of more it says how many there are
_IMPLICIT: Final = (CLUSTER_KEY, SERVICE_ACCOUNT_KEY, NAMESPACE_LABELS_PREFIX)
_MESSAGES: Final = (Protocol.ICMP, Protocol.ICMPV6)
_PROTOCOLS: Final = {int(one): one.name for one in Protocol if one is not Protocol.ANY}


class Outcome(StrEnum):
    """What policy makes of traffic. AUDIT: it passes, and would be denied if what is only audited were enforced."""

    ALLOWED = "ALLOWED"
    DENIED = "DENIED"
    AUDIT = "AUDIT"


class Traffic(NamedTuple):
    """What is asked about, as the subject sees it; for ICMP `port` is the type of the message."""

    direction: Direction
    protocol: int
    port: int

    def __str__(self) -> str:
        name = _PROTOCOLS.get(self.protocol, f"protocol {self.protocol}")
        return f"{name} type {self.port}" if self.protocol in _MESSAGES else f"{self.port}/{name}"


class PeerIdentity(NamedTuple):
    """The other side: its number decides, its labels are for the words."""

    number: int
    labels: LabelSet

    def __str__(self) -> str:
        shown = [str(one).removesuffix("=") for one in self.labels if not one.key.startswith(_IMPLICIT)]
        return f"identity {self.number} ({' '.join(shown)})" if shown else f"identity {self.number}"


class RuleHit(NamedTuple):
    """A part of a policy that decided: `path` in its document, and the selector by which it is about the traffic.

    The selector is that of the peer; for a rule that asks for default deny it is that of the subject.
    """

    ref: PolicyRef
    path: str
    selector: str

    def __str__(self) -> str:
        return f"{self.ref} {self.path}"


class Nearest(NamedTuple):
    """The rule that would allow `traffic` with the least change: what it is about, where that is other traffic.

    `peer` says what the peer lacks; empty: nothing.
    """

    hit: RuleHit
    peer: str
    about: str
    traffic: Traffic

    @property
    def lacks(self) -> tuple[str, ...]:
        """What is between the rule and the traffic."""
        l4 = f"it is about {self.about}, not {self.traffic}" if self.about else ""
        return tuple(one for one in (self.peer, l4) if one)

    def __str__(self) -> str:
        return f"{self.hit}: {' and '.join(self.lacks)}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A verdict of one side. `l7`: a proxy decides, or would if it were asked about a request.

    `rules` made the verdict: those that allow or deny, or for a default deny those that ask for it; none where the
    language itself decides. `nearest` belongs to a default deny.
    """

    verdict: Outcome
    reason: str
    rules: tuple[RuleHit, ...] = field(default=(), hash=False)  # they follow from the reason, nearly
    l7: bool = False
    nearest: Nearest | None = field(default=None, hash=False)


def hits(contributions: Iterable[Contribution]) -> tuple[RuleHit, ...]:
    """The rules behind contributions, each once, sorted; what the language itself adds has none."""
    found = {_hit(one) for one in contributions if one.term is not None}
    return tuple(sorted(found)) if len(found) > 1 else tuple(found)


@lru_cache(maxsize=4096)
def _hit(one: Contribution) -> RuleHit:
    assert one.ref is not None and one.term is not None, "a rule has a policy and a term"
    return RuleHit(one.ref, one.term.path, str(one.peer.selector) if one.peer is not None else "anyone")


def demands(rules: Iterable[ResolvedRule]) -> tuple[RuleHit, ...]:
    """The rules that ask for default deny."""
    return tuple(sorted({RuleHit(one.ref, one.rule.path, str(one.rule.subject)) for one in rules}))


def listed(found: Iterable[object], *, many: str) -> str:
    """`a, b and c`; more than a few of them are counted: `these 7 policies`, where `many` is the noun."""
    texts = list(dict.fromkeys(str(one) for one in found))
    if len(texts) > NAMED_MAX:
        return f"these {len(texts)} {many}"
    return " and ".join((", ".join(texts[:-1]), texts[-1])) if len(texts) > 1 else "".join(texts)


def l4_text(matches: Iterable[L4Match]) -> str:
    """`80/TCP, 8000-8999/UDP`: what a term is about."""
    return ", ".join(_match_text(one) for one in matches) or "no port"


def _match_text(one: L4Match) -> str:
    match one:
        case PortMatch(protocol, first, last):
            if one.is_whole_protocol:
                return "any port" if protocol is Protocol.ANY else protocol.name
            return f"{first}/{protocol.name}" if first == last else f"{first}-{last}/{protocol.name}"
        case NamedPort(protocol, name):
            return f"{name}/{protocol.name}"
        case IcmpMatch(protocol, number):
            return f"{protocol.name} type {number}"
