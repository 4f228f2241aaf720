"""Why traffic has or had its verdict: who says so, who put it there and when, and what would have let it through."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import yaml

from cplane.domain.policy.document import did_you_mean
from cplane.domain.policy.explanation import Explanation, Nearest, RuleHit
from cplane.domain.policy.kafka import KafkaRequest
from cplane.domain.redaction import REDACTED
from cplane.domain.service import shown
from cplane.domain.verdict import Direction
from cplane.errors import NotFound
from cplane.events.endpoint import EndpointCreated
from cplane.events.envelope import Envelope
from cplane.events.objects import object_of, policy_name
from cplane.events.policy import PolicyDeleted, PolicyUpserted
from cplane.timetravel.course import Found, before_and_at, births, last_event, last_turn
from cplane.timetravel.flows import RecordedFlow
from cplane.timetravel.history import History
from cplane.timetravel.intent import Author, yaml_diff
from cplane.timetravel.ledger import Ledger
from cplane.timetravel.resolved import NameShown, names_shown
from cplane.timetravel.served import Served, ServedShown, served
from cplane.timetravel.traffic import Address, IdentityNumber, PodName, Question
from cplane.timetravel.verdicts import ABSENT, RANK, End, Pair
from cplane.timetravel.when import instant

_RULES_MAX: Final = 20  # that an answer shows of each side; of more it says how many there are
_EXCERPT_LINES: Final = 12
_STEP: Final = re.compile(r"([A-Za-z0-9_-]+)|\[(\d+)\]")
_DROPPED: Final = "DROPPED"
_OF_SOCKETS: Final = ("TRACED", "TRANSLATED")  # verdicts of flows, neither of which says anything of policy
_MS: Final = 1_000_000


class EndShown(msgspec.Struct, frozen=True, kw_only=True):
    """An end as it was. `endpoint` 0: none of this node. `created` and `changed`: the first and last event about it.

    `address` may be empty, and so may `labels`; both events are null for what is no endpoint.
    """

    name: str
    endpoint: int
    identity: int
    address: str
    labels: tuple[str, ...]
    created: Author | None
    changed: Author | None


class RuleShown(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a policy: `path` in its document, the `selector` that it met, and its YAML, shortened.

    `yaml` is empty where a policy only asks for default deny: that is all of its spec, and says nothing.
    `put` is the event that made the policy read as it did; null where the log begins behind it.
    """

    policy: str
    path: str
    selector: str
    yaml: str
    put: Author | None


class NearestShown(msgspec.Struct, frozen=True, kw_only=True):
    """The rule that would have allowed it with the least change, and what it `lacks`."""

    rule: RuleShown
    lacks: tuple[str, ...]


class SideShown(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy of one end says: `direction` is egress (the source's) or ingress (the destination's).

    `rules` made the verdict, `more` counts those that are left out. `l7`: a proxy decides about requests.
    """

    direction: str
    end: str
    verdict: str
    reason: str
    l7: bool
    rules: tuple[RuleShown, ...]
    more: int
    nearest: NearestShown | None


class TurnShown(msgspec.Struct, frozen=True, kw_only=True):
    """The event that turned the verdict; `before` is ABSENT where an end was not there. `diff`: of a policy."""

    event: Author
    object: str
    before: str
    after: str
    diff: str


class FlowShown(msgspec.Struct, frozen=True, kw_only=True):
    """The flow that was asked about. `position` is what its node had in force; what observers print does not say: 0.

    `head` is what the log had by then. `note` says where the two differ, or where the flow's verdict is another than
    that of the rules.
    """

    uuid: str
    time: str
    verdict: str
    reason: str
    position: int
    head: int
    note: str


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `verdict` is ALLOWED, DENIED or AUDIT; `direction` (egress, ingress, or empty) decided, by `reason`.

    `position` and `time` say when it was so. `turned` is the last event that made the verdict another one; null: none
    did in what was looked at, which is everything that can matter behind position `searched_from`; `complete` says
    whether that goes back to where the ends, or the log, began. `names`: what DNS told the source of the address.
    `service`: whose address was asked for; the destination is one of its backends then.
    """

    verdict: str
    source: EndShown
    destination: EndShown
    traffic: str
    request: str
    direction: str
    reason: str
    position: int
    time: str
    sides: tuple[SideShown, ...]
    turned: TurnShown | None
    searched_from: int
    complete: bool
    flow: FlowShown | None
    names: tuple[NameShown, ...] = ()
    service: ServedShown | None = None


class NoSuchEnd(NotFound):
    """An end was not there at the moment that was asked about."""

    code = "history.no_such_end"


def why(history: History, now_ns: int, question: Question, *, at: str = "head") -> Why:
    """The answer for a moment. Raises NoSuchMoment, BadMoment, NoSuchEnd."""
    return _why(history, question, history.position_of(at or "head", now_ns), None)


def why_flow(history: History, flow: RecordedFlow) -> Why:
    """The answer for a flow, by the position that is stamped in it. Raises BadQuestion, NoSuchMoment, NoSuchEnd."""
    head = history.position_of(instant(flow.recorded_at_ns()), flow.recorded_at_ns())
    position = flow.position or head
    question = _as_judged(flow, history.ledger(position))
    found = _why(history, question, position, flow)
    note = "; ".join(_notes(history, flow, found, position, head))
    shown = FlowShown(
        uuid=flow.uuid,
        time=instant(flow.recorded_at_ns()),
        verdict=flow.verdict,
        reason=str(flow.drop_reason_desc) if flow.verdict == _DROPPED else "",
        position=flow.position,
        head=head,
        note=note,
    )
    return msgspec.structs.replace(found, flow=shown)


def _why(history: History, question: Question, position: int, flow: RecordedFlow | None) -> Why:
    early, ledger = before_and_at(history, position)
    pair = Pair(question, ledger.facts())
    judged = pair.judge()
    if judged.verdict == ABSENT:
        raise NoSuchEnd(f"{judged.missing} at position {position}{_elsewhere(history, question, ledger)}")
    assert judged.source is not None and judged.destination is not None, "both are there"
    by = served(ledger.facts(), question, judged.source, judged.destination)
    service = None
    if by is not None:
        asked = [(Pair(one, ledger.facts()), one) for one in by.questions]
        pair, question = max(asked, key=lambda one: RANK[one[0].judge().verdict], default=(pair, question))
        judged = pair.judge()
        service = _served_shown(by, question)
    assert judged.source is not None and judged.destination is not None, "an address is always somebody's"
    assert judged.egress is not None and judged.ingress is not None, "both were asked"
    told = _Telling(history, ledger, position)
    created = births(history, judged, position)
    found = last_turn(history, question, judged, ledger, early)
    decided = judged.egress if judged.direction is Direction.EGRESS else judged.ingress
    return Why(
        verdict=str(judged.verdict),
        source=told.end(judged.source, created[0]),
        destination=told.end(judged.destination, created[1]),
        traffic=question.traffic,
        request=question.asked,
        direction=_word(judged.direction),
        reason=decided.reason,
        position=position,
        time=instant(history.recorded_at_ns(position)) if position > history.start else "",
        sides=(
            told.side(Direction.EGRESS, judged.source, judged.egress),
            told.side(Direction.INGRESS, judged.destination, judged.ingress),
        ),
        turned=None
        if found.turn is None
        else turn_shown(history, found.turn.entry, found.turn.before, found.turn.after),
        searched_from=found.since,
        complete=_is_complete(history, found),
        flow=None,
        names=tuple(names_shown(history, judged.source, judged.destination, pair.names_selected(), ledger)),
        service=service,
    )


def _served_shown(by: Served, judged: Question) -> ServedShown:
    backend = f"{judged.destination}" if by.questions else ""
    if backend and isinstance(judged.port, int):
        backend = shown(backend, judged.port, judged.protocol)
    return ServedShown(name=by.name, frontend=by.frontend, backend=backend, backends=by.backends, left=by.left)


class _Telling:
    """Says what rules and ends were at a position, and who made them so; each is looked up once."""

    def __init__(self, history: History, ledger: Ledger, position: int) -> None:
        self._history, self._position = history, position
        self._documents = {
            policy_name(one.kind, one.namespace, one.name): one.document
            for one in ledger.facts()
            if isinstance(one, PolicyUpserted)
        }
        self._put: dict[str, Author | None] = {}

    def end(self, one: End, created: Envelope | None) -> EndShown:
        """The end, with the events that made it so."""
        return EndShown(
            name=one.name,
            endpoint=one.endpoint,
            identity=one.identity,
            address=one.address,
            labels=one.labels.texts(),
            created=None if created is None else Author.of(created),
            changed=self._author(f"endpoint {one.endpoint}") if one.endpoint else None,
        )

    def side(self, direction: Direction, end: End, found: Explanation) -> SideShown:
        """What one side said."""
        return SideShown(
            direction=_word(direction),
            end=end.name,
            verdict=str(found.verdict),
            reason=found.reason,
            l7=found.l7,
            rules=tuple(map(self._rule, found.rules[:_RULES_MAX])),
            more=max(0, len(found.rules) - _RULES_MAX),
            nearest=None if found.nearest is None else self._nearest(found.nearest),
        )

    def _nearest(self, found: Nearest) -> NearestShown:
        return NearestShown(rule=self._rule(found.hit), lacks=found.lacks)

    def _rule(self, hit: RuleHit) -> RuleShown:
        name = policy_name(*hit.ref)
        excerpt = excerpt_of(self._documents.get(name, "{}"), hit.path) if "." in hit.path else ""
        return RuleShown(policy=name, path=hit.path, selector=hit.selector, yaml=excerpt, put=self._author(name))

    def _author(self, name: str) -> Author | None:
        if name not in self._put:
            entry = last_event(self._history, name, self._position)
            self._put[name] = None if entry is None else Author.of(entry)
        return self._put[name]


def turn_shown(history: History, entry: Envelope, before: str, after: str) -> TurnShown:
    """The event, and what it did to the policy that it is about, if it is about one."""
    event = entry.event
    name, diff = object_of(entry.event), ""
    if isinstance(event, PolicyUpserted | PolicyDeleted):
        earlier = last_event(history, name, entry.position - 1)
        old = earlier.event if earlier is not None else None
        documents = (one.document if isinstance(one, PolicyUpserted) else "null" for one in (old, event))
        diff = yaml_diff(*map(json.loads, documents))
    return TurnShown(event=Author.of(entry), object=name, before=str(before), after=str(after), diff=diff)


def excerpt_of(document: str, path: str) -> str:
    """The part of a document at a path, as YAML without a line break at its end; empty where there is none."""
    found: Any = json.loads(document)  # Any: a document is what users wrote
    for name, index in _STEP.findall(path):
        if name and isinstance(found, dict) and name in found:
            found = found[name]
        elif index and isinstance(found, list) and int(index) < len(found):
            found = found[int(index)]
        else:
            return ""
    text: str = yaml.dump(found, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)
    lines = text.removesuffix("\n").removesuffix("\n...").splitlines()
    return "\n".join([*lines[:_EXCERPT_LINES], *(["…"] if len(lines) > _EXCERPT_LINES else [])])


def _is_complete(history: History, found: Found) -> bool:
    return found.turn is not None or found.since <= history.start


def _word(direction: Direction | None) -> str:
    return "" if direction is None else direction.name.lower()


def _as_judged(flow: RecordedFlow, ledger: Ledger) -> Question:
    """The question by the ends that the packet was judged with, where the log has others behind its addresses."""
    question = flow.question()
    judged = Pair(question, ledger.facts()).judge()
    ends = []
    for name, found, (end, address) in zip(question.ends, (judged.source, judged.destination), flow.ends, strict=True):
        fits = found is not None and (not end.identity or found.identity == end.identity)
        if fits or not end.identity:
            ends.append(name)
        elif end.ID and address and not isinstance(name, Address):
            ends.append(Address(address))
        else:
            ends.append(IdentityNumber(end.identity))
    return Question(ends[0], ends[1], question.protocol, question.port, question.request)


def _notes(history: History, flow: RecordedFlow, found: Why, position: int, head: int) -> Iterator[str]:
    if flow.position and flow.position < head:
        late = history.entry(flow.position + 1)
        before = max(0, flow.recorded_at_ns() - late.recorded_at_ns) // _MS
        yield (
            f"judged by position {flow.position}; position {late.position}, recorded {before} ms before, "
            "was not in the kernel yet"
        )
    if not flow.position:
        yield f"the flow does not say which position was in force: {position} was the last by then"
    if flow.is_request:
        yield from _request_notes(flow, found, position)
        return
    if flow.verdict in _OF_SOCKETS:
        yield "it is what a socket asked for, before there was a packet to judge"
        return
    if flow.is_reply:
        yield "a reply follows its connection, which is what was judged"
    dropped, denied = flow.verdict == _DROPPED, found.verdict == "DENIED"
    if dropped and not denied and not str(flow.drop_reason_desc).startswith("POLICY"):
        yield f"no policy dropped it: the reason was {flow.drop_reason_desc or 'not recorded'}"
    elif dropped is not denied and flow.verdict and not flow.is_reply:
        rules = f"the rules of position {position} say {found.verdict}"
        reason = "" if dropped else ": a connection that was open before goes on"
        yield f"the flow was {flow.verdict}, and {rules}{reason}"


def _request_notes(flow: RecordedFlow, found: Why, position: int) -> Iterator[str]:
    asked = flow.asked()
    if asked is None:
        yield "what was asked is not recorded any more, so it is the connection that was judged"
        return
    if REDACTED in str(asked):
        yield "parts of it were left out when it was recorded: rules about these were asked without them"
    if isinstance(asked, KafkaRequest):
        yield "flows do not say the client's id: rules with a clientID were asked without one"
    if flow.is_reply:
        yield "it is an answer: its request is what was judged"
    dropped, denied = flow.verdict == _DROPPED, found.verdict == "DENIED"
    if dropped is not denied and flow.verdict in {_DROPPED, "FORWARDED"}:
        yield f"the proxy's verdict was {flow.verdict}, and the rules of position {position} say {found.verdict}"


def _elsewhere(history: History, question: Question, ledger: Ledger) -> str:
    """What was perhaps meant: an end that is there at another time, or a pod with a name nearly the same."""
    if Pair(question, history.ledger(history.head).facts()).judge().verdict != ABSENT:
        return f"; at position {history.head}, the last, there is"
    pods = {f"{one.namespace}/{one.pod}" for one in ledger.facts() if isinstance(one, EndpointCreated) and one.pod}
    names = (str(one) for one in question.ends if isinstance(one, PodName) and str(one) not in pods)
    return "".join(did_you_mean(name, pods) for name in names)
