"""The reference model of the lookup that `bpf/lib/policy.h` does: which entry decides, and what it says."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol, TypeVar

from cplane.domain.policy.mapstate import ANYONE, MapKey
from cplane.domain.policy.resolve import is_redirect
from cplane.domain.ports import FULL_BITS, PROTOCOL_BITS, shortened
from cplane.domain.verdict import Direction, DropReason, MatchType

ALL_LENGTHS: Final = (*range(FULL_BITS, PROTOCOL_BITS - 1, -1), 0)
_STRONGEST: Final = 0xFFFFFFFF  # no other entry can win against it, so the kernel stops looking


class Entry(Protocol):
    """What the lookup reads of an entry; `MapEntry` and the packed table's rows have it."""

    @property
    def deny(self) -> bool:
        """Whether it drops."""
        ...

    @property
    def precedence(self) -> int:
        """Higher wins."""
        ...

    @property
    def l4_bits(self) -> int:
        """Length of its L4 prefix."""
        ...

    @property
    def auth_type(self) -> int:
        """The authentication that it asks for; 0: none."""
        ...

    @property
    def audited(self) -> bool:
        """Whether what it allows is looked up in the audit plane too."""
        ...

    @property
    def auth_said(self) -> bool:
        """Whether `auth_type` is what its own terms say."""
        ...


class Decision(NamedTuple):
    """`reason` is None when allowed; `key` is that of the entry that decided, None when there was none.

    `proxied`: allowed as far as packets go, and a proxy judges requests. `audited`: ask the audit plane too.
    `auth_type` is the authentication that is asked for; 0: none.
    """

    allowed: bool
    reason: DropReason | None
    match: MatchType
    key: MapKey | None
    audited: bool = False
    auth_type: int = 0
    proxied: bool = False


NO_MATCH: Final = Decision(allowed=False, reason=DropReason.POLICY_DENIED, match=MatchType.NONE, key=None)

E = TypeVar("E", bound=Entry)


def lookup(
    get: Callable[[MapKey], E | None],
    identity: int,
    direction: Direction,
    protocol: int,
    port: int,
    *,
    shown_bits: int = FULL_BITS,
    lengths: Sequence[int] = ALL_LENGTHS,
) -> Decision:
    """The verdict on a packet between the subject and a peer.

    `get` reads one entry: `state.entry` of a MapState, or for the rows of one policy in a packed table
    `lambda key: table.get((policy_id, *key))`. For ICMP `port` is the message type. `shown_bits` is how much of
    (protocol, port) the packet shows: 8 for a fragment. `lengths`, longest first, are the only prefix lengths tried.

    The peer's entry and anyone's are each found by longest prefix. The higher precedence decides, then the longer
    prefix, then the peer's; but a peer's entry of the highest precedence there is decides at once. The other of the
    two counts only where the one that decides does not say itself which authentication it asks for.
    """
    chosen = _longest(get, identity, direction, protocol, port, shown_bits, lengths) if identity != ANYONE else None
    other = None
    if chosen is None or chosen[1].precedence != _STRONGEST:
        other = _longest(get, ANYONE, direction, protocol, port, shown_bits, lengths)
        if chosen is None or (other is not None and _strength(other[1]) > _strength(chosen[1])):
            chosen, other = other, chosen
    if chosen is None:
        return NO_MATCH
    key, entry = chosen
    auth = entry.auth_type
    if other is not None and not entry.auth_said:
        auth = max(auth, other[1].auth_type)
    reason = _reason(entry, auth)
    proxied = reason is None and is_redirect(entry.precedence)
    return Decision(reason is None, reason, match_type(key), key, entry.audited, 0 if entry.deny else auth, proxied)


def _reason(entry: Entry, auth: int) -> DropReason | None:
    if entry.deny:
        return DropReason.POLICY_DENY
    return DropReason.AUTH_REQUIRED if auth else None


def match_type(key: MapKey) -> MatchType:
    """Which kind of entry the key names."""
    peer = key.identity != ANYONE
    if not key.l4_bits:
        return MatchType.L3_ONLY if peer else MatchType.ALL
    if key.l4_bits <= PROTOCOL_BITS:
        return MatchType.L3_PROTO if peer else MatchType.PROTO_ONLY
    return MatchType.L3_L4 if peer else MatchType.L4_ONLY


def _strength(entry: Entry) -> tuple[int, int]:
    return entry.precedence, entry.l4_bits


def _longest(
    get: Callable[[MapKey], E | None],
    identity: int,
    direction: Direction,
    protocol: int,
    port: int,
    shown_bits: int,
    lengths: Sequence[int],
) -> tuple[MapKey, E] | None:
    for bits in lengths:
        if bits <= shown_bits:
            key = MapKey(identity, int(direction), *shortened(protocol, port, bits))
            entry = get(key)
            if entry is not None:
                return key, entry
    return None
