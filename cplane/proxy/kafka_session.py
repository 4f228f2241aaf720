"""One connection through the Kafka proxy, without sockets: requests and answers go in, what to send comes out.

Answers leave in the order of the requests, also those that are ours. Each request is judged by the rules of its
moment: the first after a change is judged by the new ones, and a Fetch that waited at the broker meanwhile again.

Fetch sessions (KIP-227) would let a client read on what it named once, so where rules have topics the proxy makes every
Fetch a whole one: it asks the broker for no session, and knows none that a client has from before.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from kio.schema.errors import ErrorCode

from cplane.domain.access import Access, Address, Kafka, Phase
from cplane.domain.policy.kafka import names_topics
from cplane.domain.verdict import Direction, Verdict
from cplane.proxy import kafka_topics as topics
from cplane.proxy.kafka_policy import NOTHING, Grant, Policy, Refs
from cplane.proxy.kafka_scan import Buffer, Entity, Garbage
from cplane.proxy.kafka_topics import Shape, Topic
from cplane.proxy.kafka_wire import (
    API_VERSIONS,
    FETCH,
    METADATA,
    PREFIX,
    PRODUCE,
    Header,
    api_name,
    codec_of,
    element,
    fill,
    read_header,
    read_request,
    read_response,
    versions_of,
    write_request,
    write_response,
)
from cplane.telemetry.clock import SystemClock

PIPELINED_MAX: Final = 256
"""Requests of a connection that wait for their answers; more are not read."""
LOOKED_AT_MAX: Final = 1 << 16
"""Bytes of an answer that is read for its error codes only; a longer one passes as it comes."""
REWRITTEN_MAX: Final = 64 << 20
"""Bytes of an answer that topics are taken out of or put into."""
RECORDED_MAX: Final = 64
"""Topics of one request that are told of."""
IDS_MAX: Final = 65_536

CLAMPS: Final = {0: 12, 1: 12, 8: 9, 9: 7, 20: 5, 24: 3}
"""The last versions that name topics by their names, and in one list."""
HIDDEN: Final = frozenset({75})
"""DescribeTopicPartitions: clients ask Metadata instead, whose answer can be filtered."""

_EPOCH_OF_SESSION: Final = {range(7, 15): 21, range(15, 19): 17}  # where it stands after the header, by versions
_NO_SESSION: Final = (-1).to_bytes(4, signed=True)


class TopicIds:
    """Names of topics by their ids, as answers to Metadata gave them; an id of which two were told has none."""

    def __init__(self) -> None:
        self._names: OrderedDict[UUID, str | None] = OrderedDict()

    def get(self, number: UUID) -> str | None:
        """None: it was never told, or long ago, or two names were."""
        return self._names.get(number)

    def learn(self, number: UUID, name: str) -> None:
        """An answer says so."""
        if self._names.setdefault(number, name) != name:
            self._names[number] = None
        if len(self._names) > IDS_MAX:
            self._names.popitem(last=False)


class Port(Protocol):
    """The proxy port of a connection; its policy changes."""

    number: int
    direction: Direction
    policy: Policy
    ids: TopicIds


class Ends(NamedTuple):
    """Who talks to whom."""

    client: Address
    broker: Address


class Step(NamedTuple):
    """What to send now, and whether nothing more is to come: `closed` says why."""

    to_broker: Buffer = b""
    to_client: Buffer = b""
    closed: str = ""


class Judged(NamedTuple):
    """A topic of a request: what the request has of it, what it is called, who lets it pass (None: nobody)."""

    part: object
    topic: Topic
    name: str  # empty: an id that is not known
    refs: Refs | None


@dataclass(slots=True)
class Waiting:
    """A request whose answer is to come; with `answer` it is there, but not its turn."""

    header: Header
    at_ns: int
    topics: Sequence[tuple[str, Refs]] = ()
    rewrite: Callable[[Entity], Entity] | None = None
    again: tuple[Policy, Shape, Sequence[Judged]] | None = None  # of a Fetch: by which rules it was judged
    answer: bytes = b""
    refs: Refs = field(default=())


class Session:
    """The state of one connection. `tell` gets a record of each request and answer, for each of its topics."""

    def __init__(self, port: Port, ends: Ends, tell: Callable[[Access], None], *, clamp: bool) -> None:
        self._port, self._ends, self._tell, self._clamp = port, ends, tell, clamp
        self._waiting: deque[Waiting] = deque()
        self._clock = SystemClock()

    @property
    def waiting(self) -> int:
        """How many requests have no answer yet."""
        return len(self._waiting)

    # ---- requests ----

    def request(self, frame: Buffer) -> Step:
        """A whole frame of the client's. Raises Garbage."""
        header = read_header(frame)
        policy = self._port.policy
        grant = policy.grant(header.key, header.version, header.client_id)
        if not grant.some:
            return self._refuse(frame, header)
        if header.key == API_VERSIONS:
            return self._versions(frame, header, grant)
        shape = topics.shape_of(header.key, header.version)
        if shape is None or header.codec is None:
            return self._unshaped(frame, header, grant)
        request = read_request(frame, header)
        judged = [self._judge(one, shape, grant, header) for one in topics.items(request, shape.topics)]
        if all(one.refs is not None for one in judged) and (grant.every is not None or not _is_all(request, shape)):
            return self._allowed(frame, header, grant, request, shape, judged)
        return self._some_refused(frame, header, grant, request, shape, judged)

    def garbage(self) -> None:
        """The connection ends because of what came over it; that is recorded."""
        self._record(Phase.REQUEST, Verdict.ERROR, Kafka("", 0, 0), (), 0)

    def _judge(self, one: object, shape: Shape, grant: Grant, header: Header) -> Judged:
        topic = topics.topic_of(one, shape.name)
        name = topic if isinstance(topic, str) else self._port.ids.get(topic) if topic is not None else None
        if grant.every is not None and name is None:
            return Judged(one, topic, "", grant.every)
        if name is None:  # the answer to Metadata says its name, and is filtered by that
            return Judged(one, topic, "", () if header.key == METADATA else None)
        return Judged(one, topic, name, grant.refs(name))

    def _allowed(
        self, frame: Buffer, header: Header, grant: Grant, request: Entity, shape: Shape, judged: list[Judged]
    ) -> Step:
        """Every topic may pass; the frame goes as it came."""
        waiting = self._waiting_for(header, grant, [(one.name, one.refs or ()) for one in judged])
        restricted = grant.every is None
        if header.key == FETCH:
            waiting.again = (self._port.policy, shape, judged)
            if restricted and (refused := self._whole_fetch(frame, header, request)) is not None:
                return refused if isinstance(refused, Step) else self._forward(refused, waiting)
        if header.key == METADATA and (restricted or not self._clamp):
            waiting.rewrite = self._metadata(header, shape, judged)
        if header.key == PRODUCE and not topics.number(request, "acks"):
            self._record_request(waiting, Verdict.FORWARDED)
            return Step(to_broker=frame)
        return self._forward(frame, waiting)

    def _some_refused(
        self, frame: Buffer, header: Header, grant: Grant, request: Entity, shape: Shape, judged: list[Judged]
    ) -> Step:
        assert header.codec is not None, header
        kept, refused = [one for one in judged if one.refs is not None], [one for one in judged if one.refs is None]
        for one in refused[:RECORDED_MAX]:
            payload = Kafka(*self._names(header), one.name, _code(one))
            self._record(Phase.REQUEST, Verdict.DROPPED, payload, (), 0)
        if header.key == PRODUCE and not topics.number(request, "acks"):
            return Step(closed="topics are refused, and the client waits for no answer")
        entries = [topics.refusal(header.codec, shape, one.part, _code(one)) for one in refused]
        if not kept and refused and header.key != METADATA:
            answer = topics.with_answers(fill(header.codec.response, {}), shape, (), entries)
            return self._answer(header, answer)
        waiting = self._waiting_for(header, grant, [(one.name, one.refs or ()) for one in kept])
        if refused:
            request = topics.with_topics(request, shape, [one.part for one in kept])
        if header.key == METADATA:
            waiting.rewrite = self._metadata(header, shape, judged)
        elif _is_all(request, shape):
            waiting.rewrite = self._seen_only(header, shape)
        else:
            waiting.rewrite = lambda found: topics.with_answers(
                found, shape, topics.items(found, shape.answered), entries
            )
        if header.key == FETCH:
            waiting.again = (self._port.policy, shape, kept)
            if topics.number(request, "session_id"):
                return self._no_session(header)
            if hasattr(request, "session_epoch"):
                request = replace(request, session_epoch=-1)
        return self._forward(write_request(frame, header, request) if refused else frame, waiting)

    def _unshaped(self, frame: Buffer, header: Header, grant: Grant) -> Step:
        """An API without topics, or with such as pass all or not at all, or one that is not known."""
        named: list[tuple[str, Refs]] = []
        if grant.every is None:
            assert names_topics(header.key), header
            found = None
            if header.codec is not None:
                found = topics.named_within(header.key, read_request(frame, header))
            for one in found if found is not None else (None,):
                refs = grant.refs(one) if isinstance(one, str) else None
                if refs is None:
                    return self._refuse(frame, header)
                assert isinstance(one, str), one
                named.append((one, refs))
        waiting = self._waiting_for(header, grant, named)
        if header.key == PRODUCE:
            # a version that kio does not know: up to 2 the body begins with acks, of later ones nobody knows
            if header.version > 2 or len(frame) < header.body + 2:
                raise Garbage(f"version {header.version} of Produce")
            if not any(frame[header.body : header.body + 2]):
                self._record_request(waiting, Verdict.FORWARDED)
                return Step(to_broker=frame)
        return self._forward(frame, waiting)

    def _versions(self, frame: Buffer, header: Header, grant: Grant) -> Step:
        if header.codec is None:  # what a broker says to a version that it does not know
            first, last = versions_of(API_VERSIONS) or (0, 0)
            codec = codec_of(API_VERSIONS, 0)
            assert codec is not None
            known = fill(
                element(codec.response, "api_keys"),
                {"api_key": API_VERSIONS, "min_version": first, "max_version": last},
            )
            given = {"error_code": ErrorCode.unsupported_version, "api_keys": (known,)}
            self._record_request(self._waiting_for(header, grant, ()), Verdict.FORWARDED)
            return self._local(header, write_response(header.correlation, codec, fill(codec.response, given)))
        waiting = self._waiting_for(header, grant, ())
        waiting.rewrite = self._clamped
        return self._forward(frame, waiting)

    def _refuse(self, frame: Buffer, header: Header) -> Step:
        """The whole request is refused: topic by topic if it has any, else with an error that its API has."""
        codec, shape = header.codec, topics.shape_of(header.key, header.version)
        waits = True
        if codec is not None and shape is not None:
            request = read_request(frame, header)
            waits = header.key != PRODUCE or topics.number(request, "acks") != 0
            if parts := topics.items(request, shape.topics):
                judged = [self._judge(one, shape, NOTHING, header)._replace(refs=None) for one in parts]
                if header.key != METADATA:
                    return self._some_refused(frame, header, NOTHING, request, shape, judged)
                entries = [topics.refusal(codec, shape, one.part, _code(one)) for one in judged]
                self._record_refused(header, [one.name for one in judged], ErrorCode.topic_authorization_failed)
                return self._answer(header, topics.with_answers(fill(codec.response, {}), shape, (), entries))
        self._record_refused(header, [""], topics.code_of_refusal(header.key))
        if not waits:
            return Step(closed="a request is refused whose client waits for no answer")
        if codec is None:
            return Step(closed=f"version {header.version} of {api_name(header.key)} is refused and cannot be answered")
        answer = topics.refuse(header.key, codec, lambda: read_request(frame, header))
        if answer is None and shape is not None:
            answer = fill(codec.response, {})  # it is about no topic, and nothing is said of any
        if answer is None:
            return Step(closed=f"{api_name(header.key)} is refused, and has no answer that says so")
        return self._answer(header, answer)

    # ---- Fetch ----

    def _whole_fetch(self, frame: Buffer, header: Header, request: Entity) -> Buffer | Step | None:
        """The frame, asking for no session; a refusal where it has one; None: the version knows no sessions."""
        if not hasattr(request, "session_id"):
            return None
        if topics.number(request, "session_id"):
            return self._no_session(header)
        if topics.number(request, "session_epoch") == -1:
            return None
        at = header.body + next(at for versions, at in _EPOCH_OF_SESSION.items() if header.version in versions)
        return b"".join((frame[:at], _NO_SESSION, frame[at + 4 :]))

    def _no_session(self, header: Header) -> Step:
        assert header.codec is not None, header
        return self._answer(header, fill(header.codec.response, {"error_code": ErrorCode.fetch_session_id_not_found}))

    # ---- answers ----

    def answer_head(self, length: int, correlation: int) -> bool:
        """The answer to the first waiting request begins. Whether all of it is needed: `answer`, else `passed`.

        Raises Garbage for one that nobody waits for, or that is too long to be rewritten.
        """
        if not self._waiting or self._waiting[0].header.correlation != correlation:
            raise Garbage("an answer that nobody waits for")
        first = self._waiting[0]
        if first.again is not None and first.again[0] is not self._port.policy:
            self._judge_again(first)
        if first.rewrite is not None and length > REWRITTEN_MAX:
            raise Garbage(f"an answer of {length} bytes that must be rewritten")
        return first.rewrite is not None or (length <= LOOKED_AT_MAX and first.header.codec is not None)

    def passed(self) -> Buffer:
        """The whole of an answer has been passed on as it came; what of ours may follow it."""
        self._record_answer(self._waiting.popleft(), None)
        return self._due()

    def answer(self, frame: Buffer) -> Buffer:
        """What the client gets for an answer, and what of ours may follow it. Raises Garbage."""
        waiting = self._waiting.popleft()
        codec = waiting.header.codec
        assert codec is not None, waiting
        if waiting.rewrite is None:
            try:
                self._record_answer(waiting, read_response(frame, codec))
            except Garbage:  # the client may make more of it
                self._record_answer(waiting, None)
            due = self._due()
            return b"".join((frame, due)) if due else frame
        if waiting.header.key == API_VERSIONS and _is_unsupported(frame):
            return b"".join((frame, self._due()))  # it is of version 0, whatever was asked
        found = read_response(frame, codec)
        self._record_answer(waiting, found)
        return write_response(waiting.header.correlation, codec, waiting.rewrite(found)) + self._due()

    def _due(self) -> bytes:
        """Our own answers whose turn it is."""
        due = []
        while self._waiting and self._waiting[0].answer:
            due.append(self._waiting.popleft().answer)
        return b"".join(due)

    def _judge_again(self, waiting: Waiting) -> None:
        """The rules have changed since this Fetch was judged: what it may not have now is taken out of its answer.

        That may be more than it named, if it went on with a session.
        """
        assert waiting.again is not None and waiting.header.codec is not None, waiting
        _, shape, judged = waiting.again
        waiting.again = None
        header, codec = waiting.header, waiting.header.codec
        grant = self._port.policy.grant(header.key, header.version, header.client_id)
        if grant.every is not None:
            return
        may = self._may(header)
        gone = [one for one in judged if one.refs is not None and not (one.name and may(one.name))]
        entries = [topics.refusal(codec, shape, one.part, _code(one)) for one in gone]
        before = waiting.rewrite

        def rewrite(found: Entity) -> Entity:
            kept = []
            for one in topics.items(found, shape.answered):
                topic = topics.topic_of(one, shape.answered_name)
                name = self._port.ids.get(topic) if isinstance(topic, UUID) else topic
                if name is not None and may(name):
                    kept.append(one)
            found = topics.with_answers(found, shape, kept, entries)
            if hasattr(found, "session_id"):  # the next Fetch of a session would be refused, as the proxy knows none
                found = replace(found, session_id=0)
            return before(found) if before is not None else found

        waiting.rewrite = rewrite

    def _metadata(self, header: Header, shape: Shape, judged: Sequence[Judged]) -> Callable[[Entity], Entity]:
        """Names of topics do not leak: the answer has those that may be seen when it comes."""
        codec = header.codec
        assert codec is not None, header
        refused = [one for one in judged if one.refs is None]
        entries = [topics.refusal(codec, shape, one.part, ErrorCode.topic_authorization_failed) for one in refused]

        def rewrite(found: Entity) -> Entity:
            for one in topics.items(found, shape.answered) if not self._clamp else ():
                name, number = topics.field(one, "name"), topics.field(one, "topic_id")
                if isinstance(name, str) and isinstance(number, UUID):
                    self._port.ids.learn(number, name)
            shown = topics.visible(found, shape, self._may(header), (one.topic for one in judged))
            return topics.with_answers(found, shape, shown, entries)

        return rewrite

    def _seen_only(self, header: Header, shape: Shape) -> Callable[[Entity], Entity]:
        """For a request about all topics that there are."""
        return lambda found: topics.with_answers(found, shape, topics.visible(found, shape, self._may(header), ()), ())

    def _may(self, header: Header) -> Callable[[str], bool]:
        grant = self._port.policy.grant(header.key, header.version, header.client_id)
        return lambda name: grant.refs(name) is not None

    def _clamped(self, found: Entity) -> Entity:
        kept = []
        for one in topics.items(found, "api_keys"):
            key, first, last = (topics.number(one, name) for name in ("api_key", "min_version", "max_version"))
            known = versions_of(key)
            if known is None:
                kept.append(one)
                continue
            first, last = max(first, known[0]), min(last, known[1])
            if self._clamp:
                last = min(last, CLAMPS.get(key, last))
            if first <= last and not (self._clamp and key in HIDDEN):
                kept.append(replace(one, min_version=first, max_version=last))  # type: ignore[type-var]
        return replace(found, api_keys=tuple(kept))

    # ---- what both need ----

    def _waiting_for(self, header: Header, grant: Grant, named: Sequence[tuple[str, Refs]]) -> Waiting:
        refs = grant.every if grant.every is not None else next(iter(grant.topics.values()), ())
        return Waiting(header, self._clock.now_ns(), named, refs=refs)

    def _forward(self, frame: Buffer, waiting: Waiting) -> Step:
        self._waiting.append(waiting)
        self._record_request(waiting, Verdict.FORWARDED)
        return Step(to_broker=frame)

    def _answer(self, header: Header, response: Entity) -> Step:
        assert header.codec is not None, header
        return self._local(header, write_response(header.correlation, header.codec, response))

    def _local(self, header: Header, answer: bytes) -> Step:
        """An answer of ours, now or when it is its turn."""
        if not self._waiting:
            return Step(to_client=answer)
        self._waiting.append(Waiting(header, 0, answer=answer))
        return Step()

    # ---- records ----

    def _names(self, header: Header) -> tuple[str, int, int]:
        return api_name(header.key), header.version, header.correlation

    def _record_request(self, waiting: Waiting, verdict: Verdict) -> None:
        names = self._names(waiting.header)
        for name, refs in waiting.topics[:RECORDED_MAX] or (("", waiting.refs),):
            self._record(Phase.REQUEST, verdict, Kafka(*names, name), refs, 0, waiting.at_ns)

    def _record_refused(self, header: Header, named: Iterable[str], code: ErrorCode) -> None:
        for name in [*named][:RECORDED_MAX]:
            self._record(Phase.REQUEST, Verdict.DROPPED, Kafka(*self._names(header), name, code.value), (), 0)

    def _record_answer(self, waiting: Waiting, found: Entity | None) -> None:
        names, now = self._names(waiting.header), self._clock.now_ns()
        shape = topics.shape_of(waiting.header.key, waiting.header.version)
        codes: dict[Topic, int] = {}
        if found is not None:
            codes = dict(topics.errors_of(shape, found))
        whole = codes.get("", 0) or (topics.number(found, "error_code") if found is not None else 0)
        for name, refs in waiting.topics[:RECORDED_MAX] or (("", waiting.refs),):
            payload = Kafka(*names, name, codes.get(name, 0) or whole)
            self._record(Phase.RESPONSE, Verdict.FORWARDED, payload, refs, max(now - waiting.at_ns, 0), now)

    def _record(
        self, phase: Phase, verdict: Verdict, payload: Kafka, refs: Refs, latency_ns: int, at_ns: int = 0
    ) -> None:
        client, broker = self._ends
        source, destination = (broker, client) if phase is Phase.RESPONSE else (client, broker)
        at_ns = at_ns or self._clock.now_ns()
        port = self._port
        self._tell(
            Access(
                *(at_ns, phase, port.direction, verdict, 6, source, destination),
                *(payload, port.number, refs, latency_ns),
            )
        )


def _code(one: Judged) -> ErrorCode:
    return ErrorCode.topic_authorization_failed if one.name else ErrorCode.unknown_topic_id


def _is_all(request: Entity, shape: Shape) -> bool:
    """Whether a request is about all topics that there are."""
    return topics.field(request, shape.topics) is None


def _is_unsupported(frame: Buffer) -> bool:
    return int.from_bytes(frame[PREFIX + 4 : PREFIX + 6], signed=True) == ErrorCode.unsupported_version
