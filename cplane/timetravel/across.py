"""Why traffic between pods of two nodes has its verdict: each node says what its policy is for its own end.

What is compared is what packets meet: at the moment that is asked for, by each node's own clock, the node of the source
judges egress to the address of the destination, and the node of the destination ingress from the address of the
source. Each does so by its own log: what it knew of the other's pod is what its ipcache had for that address.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import msgspec

from cplane.domain.policy.explanation import Outcome
from cplane.domain.ports import parse_named_ports
from cplane.events.endpoint import EndpointCreated
from cplane.timetravel.history import History, NoSuchMoment
from cplane.timetravel.traffic import Address, BadQuestion, Named, NodeName, PodName, Question
from cplane.timetravel.verdicts import RANK
from cplane.timetravel.wanted import Wanted
from cplane.timetravel.when import HEAD, position_or_ns
from cplane.timetravel.why import EndShown, NoSuchEnd, Why, why


class NodeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What one node says, by its own log; positions in it are of that log."""

    node: str
    why: Why


class WhyAcross(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a database with the logs of several nodes.

    `answers` has the source's node and then the destination's, or the only one that has both ends, or has the end that
    the other is outside of. `node` decided, in the `direction`, by `reason`. `notes` say what a node did not know.
    """

    verdict: str
    source: str
    destination: str
    traffic: str
    node: str
    direction: str
    reason: str
    notes: tuple[str, ...]
    answers: tuple[NodeAnswer, ...]


@dataclass(frozen=True, slots=True)
class _Home:
    """Where an end is an endpoint; `since_ns`: when it was created there."""

    node: str
    endpoint: EndpointCreated
    since_ns: int


def why_across(nodes: Mapping[str, History], now_ns: int, question: Question, *, at: str = "head") -> WhyAcross:
    """The answer for a moment, by the logs of the nodes of these names, one of which has each end that is a pod.

    Raises NoSuchMoment (also for a position, which is of one node), BadMoment, NoSuchEnd, BadQuestion.
    """
    at = at or "head"
    position, _ = position_or_ns(at, now_ns)
    if position not in {None, HEAD}:
        raise NoSuchMoment(f"position {position} is of one node's log: give a time, or node=NAME with the log")
    past = {name: _position(history, at, now_ns) for name, history in nodes.items()}
    source, destination = (_homes(nodes, past, one) for one in question.ends)
    passed = (*_passed(question.source, source), *_passed(question.destination, destination))
    if source and destination and source[0].node != destination[0].node:
        return _between(nodes, now_ns, question, at, source[0], destination[0], passed)
    node = _only(nodes, question, source, destination, at)
    found = why(nodes[node], now_ns, question, at=at)
    return WhyAcross(
        verdict=found.verdict,
        source=found.source.name,
        destination=found.destination.name,
        traffic=found.traffic,
        node=node,
        direction=found.direction,
        reason=found.reason,
        notes=passed,
        answers=(NodeAnswer(node=node, why=found),),
    )


def _between(
    nodes: Mapping[str, History],
    now_ns: int,
    question: Question,
    at: str,
    source: _Home,
    destination: _Home,
    passed: tuple[str, ...],
) -> WhyAcross:
    sender, receiver = _addresses(question, source.endpoint, destination.endpoint)
    port = _port(question, destination.endpoint)
    asked = replace(question, source=sender)
    ingress = why(nodes[destination.node], now_ns, asked, at=at)
    asked = replace(question, destination=receiver, port=port)
    egress = why(nodes[source.node], now_ns, asked, at=at)
    first = RANK[egress.verdict] >= RANK[ingress.verdict]  # a packet meets egress first
    if first and egress.verdict == Outcome.ALLOWED and not egress.sides[0].rules and ingress.sides[1].rules:
        first = False  # then only one side has anything to say
    decided = egress if first else ingress
    return WhyAcross(
        verdict=decided.verdict,
        source=egress.source.name,
        destination=ingress.destination.name,
        traffic=ingress.traffic,
        node=source.node if first else destination.node,
        direction="egress" if first else "ingress",
        reason=(egress.sides[0] if first else ingress.sides[1]).reason,
        notes=(
            *passed,
            *_mistaken(source.node, egress.destination, destination.node, ingress.destination),
            *_mistaken(destination.node, ingress.source, source.node, egress.source),
        ),
        answers=(NodeAnswer(node=source.node, why=egress), NodeAnswer(node=destination.node, why=ingress)),
    )


def _position(history: History, at: str, now_ns: int) -> int | None:
    """The position of the moment; None: the log begins later."""
    try:
        return history.position_of(at, now_ns)
    except NoSuchMoment:
        return None


def _homes(nodes: Mapping[str, History], past: Mapping[str, int | None], end: Named) -> tuple[_Home, ...]:
    """Where the end is an endpoint at these positions, the youngest first: a node that died never said that it went."""
    found = [
        _Home(node, fact, _created_at_ns(nodes[node], fact.endpoint, position))
        for node, position in past.items()
        if position is not None
        for fact in nodes[node].ledger(position).facts()
        if isinstance(fact, EndpointCreated) and _is(fact, end)
    ]
    return tuple(sorted(found, key=lambda one: (-one.since_ns, one.node)))


def _is(endpoint: EndpointCreated, end: Named) -> bool:
    match end:
        case PodName():
            return end == (endpoint.namespace, endpoint.pod)
        case Address(text):
            return text in (endpoint.ipv4, endpoint.ipv6)
        case _:
            return False


def _created_at_ns(history: History, endpoint: int, position: int) -> int:
    for found in reversed(history.find(Wanted(object=f"endpoint {endpoint}", to=position))):
        if found > history.start and isinstance((entry := history.entry(found)).event, EndpointCreated):
            return entry.recorded_at_ns
    return 0


def _passed(end: Named, homes: tuple[_Home, ...]) -> Iterator[str]:
    """What is said of nodes that have the end too, and are not asked."""
    for other in homes[1:]:
        if other.node != homes[0].node:
            yield f"{other.node} has {end} too, which is older than that of {homes[0].node}: it was not asked"


def _only(
    nodes: Mapping[str, History], question: Question, source: tuple[_Home, ...], destination: tuple[_Home, ...], at: str
) -> str:
    """The node that is asked alone. Raises NoSuchEnd where a pod is nowhere, BadQuestion where none is meant."""
    for end, homes in zip(question.ends, (source, destination), strict=True):
        if isinstance(end, PodName) and not homes:
            when = "now" if at == "head" else f"at {at}"
            raise NoSuchEnd(f"there is no pod {end} {when} on any of the nodes in this database")
    for homes in (source, destination):
        if homes:
            return homes[0].node
    named = [one.name for one in question.ends if isinstance(one, NodeName) and one.name in nodes]
    if named:
        return named[0]
    raise BadQuestion("neither end is a pod of any node in this database: say which node is asked, node=NAME")


def _addresses(question: Question, source: EndpointCreated, destination: EndpointCreated) -> tuple[Address, Address]:
    """What packets between the two have. Raises BadQuestion where they have no family in common."""
    for sender, receiver in ((source.ipv4, destination.ipv4), (source.ipv6, destination.ipv6)):
        if not (sender and receiver):
            continue
        given = [one.text for one in question.ends if isinstance(one, Address)]
        if all(one in (sender, receiver) for one in given):
            return Address(sender), Address(receiver)
    raise BadQuestion(f"{question.source} and {question.destination} have no addresses of one family")


def _port(question: Question, destination: EndpointCreated) -> int | str:
    """The port's number; its name where the destination has none of that name, which its node will say."""
    held = parse_named_ports(destination.named_ports)
    wanted = (question.port, question.protocol)
    return next((number for one, number in held if (one.name, one.protocol) == wanted), question.port)


def _mistaken(node: str, known: EndShown, owner: str, end: EndShown) -> Iterator[str]:
    """What is said where a node knew the other's pod as somebody else."""
    if known.labels != end.labels:
        labels = " ".join(label.removesuffix("=") for label in known.labels) or "nobody"
        yield f"{node} knew {known.address} as {labels}, and not as {end.name} of {owner}: what selects pods missed it"
