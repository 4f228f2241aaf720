"""How a verdict went through history: which events turned it, and who put there what decided it.

What one command led to counts as one step: between its events nobody was judged for long, and a policy that lets in a
prefix is followed by the identity of that prefix, which is its doing.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from itertools import groupby
from typing import Final, NamedTuple

from cplane.events.endpoint import EndpointCreated, EndpointRelabelled
from cplane.events.envelope import Envelope
from cplane.events.fqdn import AddressesForgotten, AddressesIdentified
from cplane.events.identity import IdentityAllocated, IdentityReleased
from cplane.events.ipam import AddressAllocated, AddressReleased
from cplane.events.node import NodeJoined
from cplane.events.service import ServiceUpserted
from cplane.timetravel.history import History
from cplane.timetravel.ledger import Ledger
from cplane.timetravel.reached import KINDS, Reached
from cplane.timetravel.served import may_be_served
from cplane.timetravel.traffic import Address, Question
from cplane.timetravel.verdicts import ABSENT, End, Judged
from cplane.timetravel.wanted import Wanted

SEARCHED_MAX: Final = 20_000
"""Events that can matter which a search back looks at before it gives up and says so."""

_FIRST_STRETCH: Final = 64
_GROWTH: Final = 8
_SHORTLY: Final = 1500
_SPARSE: Final = 8  # of so many events one is wanted: then each is read on its own
_CONSEQUENCES: Final = (
    IdentityAllocated,
    IdentityReleased,
    AddressAllocated,
    AddressReleased,
    AddressesIdentified,
    AddressesForgotten,
)


class Turn(NamedTuple):
    """An event that made a verdict another one, and both: an `Outcome`, or ABSENT."""

    entry: Envelope
    before: str
    after: str


class Found(NamedTuple):
    """What a search back found; `since`: the position behind which it has looked at everything that can matter."""

    turn: Turn | None
    since: int


def turns(history: History, question: Question, after: int, to: int) -> Iterator[Turn]:
    """Every event behind `after` up to `to` that turned the verdict, in order."""
    return _turns(Reached(question, history.ledger(after)), history.entries(after, to))


def before_and_at(history: History, position: int) -> tuple[Ledger, Ledger]:
    """The ledger of the position, behind one of shortly before: a fold to the second passes the first anyway."""
    early = history.ledger(max(history.newest(position), position - _SHORTLY))
    return early, history.advance(early.copy(), position)


def last_turn(
    history: History, question: Question, judged: Judged, ledger: Ledger, early: Ledger, *, most: int = SEARCHED_MAX
) -> Found:
    """The newest turn at or before where the ledger is, and `judged` is so; the youngest end's creation is one too.

    Backends of a service come and go: where its address is asked for, only the creation of the source is.
    `early` is a ledger of before that, where the search begins; `most`: events that it looks at.
    """
    position = ledger.position
    source, destination = births(history, judged, position)
    by_service = may_be_served(question) and _has_services(history, ledger)
    created = [one for one in (source, None if by_service else destination) if one is not None]
    birth = max(created, key=lambda one: one.position, default=None)
    floor = history.start if birth is None else birth.position
    kinds = _kinds_that_matter(question, judged, ledger) | (KINDS if by_service else set())
    positions = _that_matter(history, kinds, judged, floor, position)[-most:]
    stop, size = len(positions), _FIRST_STRETCH
    while stop:
        first = _begin(history, positions, max(0, stop - size))
        near = bisect_right(positions, early.position)
        if first < near < stop:
            first = _begin(history, positions, near)
        stretch, begin = positions[first:stop], positions[first] - 1
        start = history.advance(early.copy(), begin) if early.position <= begin else history.ledger(begin)
        found = list(_turns(Reached(question, start), read_at(history, stretch)))
        if found:
            return Found(found[-1], stretch[0] - 1)
        stop, size = first, size * _GROWTH
    cut = len(positions) >= most
    if birth is None or cut:
        return Found(None, positions[0] - 1 if cut else floor)
    return Found(Turn(birth, ABSENT, judged.verdict), floor)


def _has_services(history: History, ledger: Ledger) -> bool:
    """Whether there is a service, or was one."""
    found = history.find(Wanted(kind="service", to=ledger.position, last=1))
    return bool(found) or any(isinstance(one, ServiceUpserted) for one in ledger.facts())


def births(history: History, judged: Judged, position: int) -> tuple[Envelope | None, Envelope | None]:
    """The events that created the ends; None for one that is no endpoint."""
    source, destination = (_birth(history, one, position) for one in (judged.source, judged.destination))
    return source, destination


def last_event(history: History, name: str, position: int) -> Envelope | None:
    """The newest event about the object of that name at or before the position; None: there is none any more."""
    found = history.find(Wanted(object=name, to=position, last=1)) if position else []
    return history.entry(found[0]) if found and found[0] > history.start else None


def _turns(reached: Reached, entries: Iterable[Envelope]) -> Iterator[Turn]:
    verdict = reached.judge().verdict
    for _, run in groupby(entries, key=_command):
        seen: list[Envelope] = []
        blamed, now = 0, verdict
        for number, entry in enumerate(run):
            seen.append(entry)
            if reached.apply(entry) and (found := reached.judge().verdict) != now:
                blamed, now = number, found
        if now != verdict:
            yield Turn(_cause(seen, blamed), verdict, now)
            verdict = now


def _birth(history: History, end: End | None, position: int) -> Envelope | None:
    if end is None or not end.endpoint:
        return None
    for found in reversed(history.find(Wanted(object=f"endpoint {end.endpoint}", to=position))):
        if found <= history.start:
            return None
        entry = history.entry(found)
        if isinstance(entry.event, EndpointCreated):
            return entry
    return None


def _kinds_that_matter(question: Question, judged: Judged, ledger: Ledger) -> set[str]:
    """The kinds of objects whose every event may turn the verdict between two who are there all the time."""
    kinds = {"policy", "options", "node", "service"}
    ends = [one for one in (judged.source, judged.destination) if one is not None]
    outside = [ip_address(one.address) for one in ends if one.address and not one.endpoint]
    # Prefixes come and go with identities, and addresses change theirs with the names that they have.
    if any(not one.endpoint for one in ends) or any(isinstance(one, Address) for one in question.ends):
        kinds |= {"identity", "name"}
    identities, any_endpoint = {one.identity for one in ends}, isinstance(question.port, str)
    for fact in ledger.facts():
        match fact:
            case NodeJoined():  # an address of pods that is nobody's may have been a pod's
                pods = [ip_network(one) for one in (fact.ipv4_pod_cidr, fact.ipv6_pod_cidr) if one]
                any_endpoint = any_endpoint or any(one in prefix for one in outside for prefix in pods)
            case EndpointCreated() if fact.named_ports:
                # Ports of a name are those of all endpoints of the identity.
                any_endpoint = any_endpoint or fact.identity in identities
    if any_endpoint or any(one.ports for one in ends):
        kinds.add("endpoint")
    return kinds


def _that_matter(history: History, kinds: set[str], judged: Judged, after: int, to: int) -> list[int]:
    """The positions of events that may turn the verdict, the newest of them."""
    ends = [one for one in (judged.source, judged.destination) if one is not None]
    wanted = [Wanted(kind=kind, after=after, to=to, last=SEARCHED_MAX) for kind in sorted(kinds)]
    names = {f"endpoint {one.endpoint}" for one in ends if one.endpoint}
    wanted += [
        Wanted(object=name, after=after, to=to, last=SEARCHED_MAX)
        for name in sorted(names.union(_identities(history, ends, after, to)))
    ]
    return sorted({found for one in wanted for found in history.find(one)})[-SEARCHED_MAX:] if to > after else []


def _identities(history: History, ends: Iterable[End], after: int, to: int) -> Iterator[str]:
    """The names of the identities that endpoints have had: without theirs nobody knows what they are to others."""
    for end in ends:
        yield f"identity {end.identity}"
        found = history.find(Wanted(object=f"endpoint {end.endpoint}", after=after, to=to, last=SEARCHED_MAX))
        for entry in map(history.entry, found if end.endpoint else ()):
            if isinstance(entry.event, EndpointRelabelled):
                yield f"identity {entry.event.identity}"


def _begin(history: History, positions: list[int], first: int) -> int:
    """Where a stretch can begin: not in the middle of what one command led to."""
    while first and positions[first - 1] == positions[first] - 1:
        before, entry = history.entry(positions[first - 1]), history.entry(positions[first])
        if _command(before) != _command(entry):
            break
        first -= 1
    return first


def read_at(history: History, positions: list[int]) -> Iterator[Envelope]:
    """The events at these positions, in their order."""
    first, last = positions[0], positions[-1]
    if last - first > _SPARSE * len(positions):
        return map(history.entry, positions)
    wanted = set(positions)
    return (one for one in history.entries(first - 1, last) if one.position in wanted)


def _command(entry: Envelope) -> tuple[int, str, str]:
    return entry.recorded_at_ns, entry.actor, entry.cause


def _cause(entries: list[Envelope], blamed: int) -> Envelope:
    """The event itself, or the one that it followed from: identities and addresses come and go for others' sake."""
    causes = (one for one in reversed(entries[: blamed + 1]) if not isinstance(one.event, _CONSEQUENCES))
    return next(causes, entries[blamed])
