"""What becomes of requests and answers: judged topic by topic, in order, and never more let through than rules let."""

from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.index import load_request_schema, load_response_schema
from kio.schema.errors import ErrorCode

from cplane.domain.access import Kafka, Phase
from cplane.domain.policy.kafka import KafkaRequest, KafkaRule, names_topics
from cplane.domain.verdict import Verdict
from cplane.proxy.kafka_policy import Policy
from cplane.proxy.kafka_scan import Garbage
from cplane.proxy.kafka_session import LOOKED_AT_MAX, PIPELINED_MAX, REWRITTEN_MAX, Step
from cplane.proxy.kafka_wire import fill
from tests.support.effort import examples
from tests.support.kafka_messages import (
    ENDS,
    REF,
    TOPICS,
    VERSIONS,
    Port,
    answer,
    ask,
    asked,
    encoded,
    entities,
    framed,
    head,
    make,
    named,
    replied,
    reply,
    rule,
    session,
)

DENIED, GROUP, CLUSTER = (
    ErrorCode.topic_authorization_failed,
    ErrorCode.group_authorization_failed,
    ErrorCode.cluster_authorization_failed,
)
PRODUCE_1 = rule(0, 3, 18, topic="topic1")
CONSUME_1 = rule(1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 18, topic="topic1")


def produce(*topics, acks=1, version=9):
    data = [{"name": one, "partition_data": [{"index": 0, "records": b"r"}]} for one in topics]
    return make(0, version, acks=acks, topic_data=data)


def fetch(*topics, version=12, **given):
    parts = [{"partition": 0, "partition_max_bytes": 100}]
    return make(1, version, topics=[{"topic": one, "partitions": parts} for one in topics], **given)


def fetched(*topics, version=12, records=b"data"):
    parts = [{"partition_index": 0, "records": records}]
    return answer(1, version, responses=[{"topic": one, "partitions": parts} for one in topics])


def through(one, response, correlation=7):
    """What the client gets for the broker's answer."""
    frame = reply(response, correlation)
    if one.answer_head(len(frame) - 4, correlation):
        return bytes(one.answer(frame))
    return frame + bytes(one.passed())


def payloads(records, phase=Phase.REQUEST):
    return [(one.verdict, one.payload.topic, one.payload.error_code) for one in records if one.phase is phase]


# ---- by topic ----


def test_what_may_pass_goes_as_it_came():
    one, _, records = session(PRODUCE_1)
    frame = ask(produce("topic1"))
    assert one.request(frame) == Step(to_broker=frame)
    response = answer(0, 9, responses=[{"name": "topic1", "partition_responses": [{"index": 0, "base_offset": 5}]}])
    assert through(one, response) == reply(response)
    assert payloads(records) == [(Verdict.FORWARDED, "topic1", 0)]
    first, second = records
    assert (first.source, first.destination, first.rules) == (ENDS.client, ENDS.broker, (REF,))
    assert (second.source, second.destination, second.is_reply) == (ENDS.broker, ENDS.client, True)
    assert first.payload == Kafka("produce", 9, 7, "topic1") == second.payload
    assert second.latency_ns > 0


def test_a_refused_topic_is_answered_here():
    one, _, records = session(PRODUCE_1)
    step = one.request(ask(produce("secret")))
    assert not step.to_broker
    (topic,) = replied(step.to_client, 0, 9).responses
    assert (topic.name, topic.partition_responses[0].error_code) == ("secret", DENIED)
    assert topic.partition_responses[0].base_offset == -1
    assert payloads(records) == [(Verdict.DROPPED, "secret", 29)]


def test_other_topics_of_the_same_request_are_served():
    one, _, _ = session(PRODUCE_1)
    step = one.request(ask(produce("secret", "topic1", "topic2")))
    assert named(asked(step.to_broker)) == {"topic1"}
    got = replied(through(one, answer(0, 9, responses=[{"name": "topic1", "partition_responses": [{}]}])), 0, 9)
    codes = {one.name: one.partition_responses[0].error_code for one in got.responses}
    assert codes == {"topic1": ErrorCode.none, "secret": DENIED, "topic2": DENIED}


def test_a_refused_fetch_has_records_that_are_not_null():
    one, _, _ = session(CONSUME_1)
    for version in range(4, 13):
        step = one.request(ask(fetch("secret", version=version)))
        (topic,) = replied(step.to_client, 1, version).responses
        assert (topic.partitions[0].error_code, topic.partitions[0].records) == (DENIED, b"")


@pytest.mark.parametrize("version", range(4, 13))
def test_a_fetch_of_several_topics_gives_those_that_may_be_read(version):
    one, _, _ = session(CONSUME_1)
    step = one.request(ask(fetch("topic1", "secret", version=version)))
    assert named(asked(step.to_broker)) == {"topic1"}
    got = replied(through(one, fetched("topic1", version=version)), 1, version)
    found = {topic.topic: topic.partitions[0].records for topic in got.responses}
    assert found == {"topic1": b"data", "secret": b""}


SPLIT = {
    2: (range(1, 11), {"topics": [{"name": n, "partitions": [{"partition_index": 3}]} for n in ("secret", "topic1")]}),
    8: (range(2, 10), {"topics": [{"name": n, "partitions": [{"partition_index": 3}]} for n in ("secret", "topic1")]}),
    9: (range(1, 8), {"topics": [{"name": n, "partition_indexes": [3]} for n in ("secret", "topic1")]}),
    21: (range(3), {"topics": [{"name": n, "partitions": [{"partition_index": 3}]} for n in ("secret", "topic1")]}),
    23: (range(2, 5), {"topics": [{"topic": n, "partitions": [{"partition": 3}]} for n in ("secret", "topic1")]}),
    24: (range(4), {"v3_and_below_topics": [{"name": n, "partitions": [3]} for n in ("secret", "topic1")]}),
    28: (range(6), {"topics": [{"name": n, "partitions": [{"partition_index": 3}]} for n in ("secret", "topic1")]}),
}
WHOLE = {
    19: (range(2, 8), {"topics": [{"name": n} for n in ("secret", "topic1")]}),
    20: (range(1, 6), {"topic_names": ["secret", "topic1"]}),
    37: (range(4), {"topics": [{"name": n} for n in ("secret", "topic1")]}),
}


def _topics(found):
    for name in ("topics", "responses", "results", "results_by_topic_v3_and_below"):
        if hasattr(found, name):
            return {getattr(one, "name", getattr(one, "topic", "")): one for one in getattr(found, name)}
    raise AssertionError(found)


@pytest.mark.parametrize(
    ("key", "version"), [(k, v) for k, (versions, _) in {**SPLIT, **WHOLE}.items() for v in versions]
)
def test_every_api_with_topics_loses_those_that_are_refused(key, version):
    given = {**SPLIT, **WHOLE}[key][1]
    one, _, records = session(rule(key, topic="topic1"))
    step = one.request(ask(make(key, version, **given)))
    assert named(asked(step.to_broker)) == {"topic1"}
    got = _topics(replied(through(one, answer(key, version)), key, version))
    secret = got["secret"]
    if key in SPLIT:
        parts = getattr(secret, "partitions", None) or secret.results_by_partition
        assert len(parts) == 1
        numbers = {getattr(parts[0], name, None) for name in ("partition_index", "partition")}
        codes = {getattr(parts[0], name, None) for name in ("error_code", "partition_error_code")}
        assert 3 in numbers and DENIED in codes
    else:
        assert secret.error_code == DENIED
    assert (Verdict.DROPPED, "secret", 29) in payloads(records)
    assert (Verdict.FORWARDED, "topic1", 0) in payloads(records)


# ---- Produce ----


def test_refused_topics_of_a_client_that_waits_for_no_answer_end_the_connection():
    one, _, _ = session(PRODUCE_1)
    assert one.request(ask(produce("topic1", acks=0))).to_broker
    assert one.waiting == 0
    step = one.request(ask(produce("topic1", "secret", acks=0)))
    assert step.closed and not step.to_broker


@pytest.mark.parametrize(("acks", "waiting"), [(0, 0), (1, 1), (-1, 1)])
def test_an_old_version_of_produce_passes_where_no_topic_matters(acks, waiting):
    one, _, _ = session(rule(0))
    frame = framed(head(0, 2) + acks.to_bytes(2, signed=True) + b"\0\0\0\1\0\0\0\0")
    assert one.request(frame).to_broker == frame
    assert one.waiting == waiting


def test_an_old_version_of_produce_is_refused_where_topics_matter():
    one, _, _ = session(PRODUCE_1)
    assert one.request(framed(head(0, 2) + b"\0\1\0\0\0\1\0\0\0\0")).closed


def test_a_version_of_produce_that_nobody_knows_is_garbage():
    one, _, _ = session(rule(0))
    with pytest.raises(Garbage):
        one.request(framed(head(0, 99) + bytes(20)))


def test_who_may_produce_may_ask_for_a_producers_number():
    one, _, _ = session(PRODUCE_1)
    assert one.request(ask(make(22, 4, transactional_id=None))).to_broker
    one, _, _ = session(CONSUME_1)
    got = replied(one.request(ask(make(22, 4, transactional_id=None))).to_client, 22, 4)
    assert (got.error_code, got.producer_id) == (CLUSTER, -1)


# ---- Metadata ----


def metadata(*topics, version=12):
    parts = [{"error_code": ErrorCode.none, "name": n, "topic_id": UUID(int=i)} for i, n in enumerate(topics, 1)]
    return answer(3, version, topics=parts)


@pytest.mark.parametrize("version", range(14))
def test_names_of_topics_do_not_leak(version):
    one, _, _ = session(PRODUCE_1)
    every = make(3, version, topics=None) if version else make(3, 0, topics=[])
    frame = ask(every)
    assert one.request(frame).to_broker == frame
    got = replied(through(one, metadata(*TOPICS, version=version)), 3, version)
    assert [topic.name for topic in got.topics] == ["topic1"]


def test_a_topic_that_is_asked_for_and_refused_is_not_asked_on():
    one, _, _ = session(PRODUCE_1)
    step = one.request(ask(make(3, 4, topics=[{"name": "secret"}, {"name": "topic1"}])))
    assert named(asked(step.to_broker)) == {"topic1"}
    got = replied(through(one, metadata("topic1", version=4)), 3, 4)
    assert [(one.name, one.error_code) for one in got.topics] == [("topic1", 0), ("secret", DENIED)]
    step = one.request(ask(make(3, 4, topics=[{"name": "secret"}])))
    assert asked(step.to_broker).topics == ()  # brokers are still told


def test_a_hidden_topic_that_is_asked_for_by_its_id_is_unknown():
    one, _, _ = session(PRODUCE_1, clamp=False)
    one.request(ask(make(3, 12, topics=[{"topic_id": UUID(int=3)}, {"topic_id": UUID(int=1)}])))
    got = replied(through(one, metadata(*TOPICS)), 3, 12)
    assert [(topic.name, topic.error_code) for topic in got.topics] == [
        ("topic1", 0),
        (None, ErrorCode.unknown_topic_id),
    ]


def test_metadata_is_filtered_by_the_rules_of_when_it_comes():
    one, port, _ = session(PRODUCE_1)
    one.request(ask(make(3, 12, topics=None)))
    port.allow(rule(0, 3, 18, topic="topic2"))
    assert [t.name for t in replied(through(one, metadata(*TOPICS)), 3, 12).topics] == ["topic2"]


def test_offsets_of_all_topics_are_filtered():
    one, _, _ = session(CONSUME_1)
    frame = ask(make(9, 5, group_id="g", topics=None))
    assert one.request(frame).to_broker == frame
    got = replied(through(one, answer(9, 5, topics=[{"name": name} for name in TOPICS])), 9, 5)
    assert [topic.name for topic in got.topics] == ["topic1"]


# ---- topic ids ----


def by_id(*numbers, version=13, **given):
    return make(1, version, topics=[{"topic_id": n, "partitions": [{"partition": 0}]} for n in numbers], **given)


def test_an_id_is_judged_by_the_name_that_metadata_gave_it():
    one, _, _ = session(CONSUME_1, clamp=False)
    got = replied(one.request(ask(by_id(UUID(int=1)))).to_client, 1, 13)
    assert got.responses[0].partitions[0].error_code == ErrorCode.unknown_topic_id
    one.request(ask(make(3, 12, topics=None)))
    through(one, metadata(*TOPICS))
    step = one.request(ask(by_id(UUID(int=1), UUID(int=3), UUID(int=9))))
    assert [topic.topic_id for topic in asked(step.to_broker).topics] == [UUID(int=1)]
    parts = [{"partition_index": 0, "records": b"data"}]
    got = replied(through(one, answer(1, 13, responses=[{"topic_id": UUID(int=1), "partitions": parts}])), 1, 13)
    codes = [topic.partitions[0].error_code for topic in got.responses]
    assert codes == [ErrorCode.none, DENIED, ErrorCode.unknown_topic_id]


def test_an_id_that_has_two_names_has_none():
    one, _, _ = session(CONSUME_1, clamp=False)
    for names in (["secret"], ["topic1"]):
        one.request(ask(make(3, 12, topics=None)))
        through(one, metadata(*names))
    assert one.request(ask(by_id(UUID(int=1)))).to_client


def test_with_clamping_no_id_is_known():
    one, _, _ = session(CONSUME_1)
    one.request(ask(make(3, 12, topics=None)))
    through(one, metadata(*TOPICS))
    assert one.request(ask(by_id(UUID(int=1)))).to_client


# ---- Fetch sessions, and rules that change ----


@pytest.mark.parametrize("version", range(7, 19))
def test_a_fetch_under_rules_with_topics_asks_for_no_session(version):
    one, port, _ = session(CONSUME_1, clamp=False)
    port.ids.learn(UUID(int=1), "topic1")
    request = (
        fetch("topic1", version=version, session_epoch=0)
        if version < 13
        else by_id(UUID(int=1), version=version, session_epoch=0)
    )
    got = asked(one.request(ask(request)).to_broker)
    assert (got.session_id, got.session_epoch) == (0, -1)
    assert got.topics == request.topics


def test_a_session_from_before_is_not_known():
    one, _, _ = session(CONSUME_1)
    step = one.request(ask(fetch(session_id=5, session_epoch=3)))
    assert replied(step.to_client, 1, 12).error_code == ErrorCode.fetch_session_id_not_found
    assert not step.to_broker


def test_sessions_stay_where_no_topic_matters():
    one, _, _ = session(everything=True)
    frame = ask(fetch("topic1", session_epoch=0))
    assert one.request(frame).to_broker == frame


def test_the_next_request_is_judged_by_the_new_rules():
    one, port, _ = session(PRODUCE_1)
    assert one.request(ask(produce("topic1"))).to_broker
    through(one, answer(0, 9))
    port.allow(rule(0, topic="topic2"))
    assert one.request(ask(produce("topic1"))).to_client
    port.allow(PRODUCE_1)
    assert one.request(ask(produce("topic1"))).to_broker


def test_a_fetch_that_waits_at_the_broker_is_judged_again():
    one, port, _ = session(rule(1))
    one.request(ask(fetch("topic1", "secret", session_id=4, session_epoch=2)))
    port.allow(CONSUME_1)
    got = replied(through(one, fetched("topic1", "secret", "topic2")), 1, 12)  # topic2 was in the session
    found = [(t.topic, t.partitions[0].error_code, t.partitions[0].records) for t in got.responses]
    assert found == [("topic1", 0, b"data"), ("secret", DENIED, b"")]
    assert got.session_id == 0


# ---- whole requests ----


def test_requests_of_groups_are_refused_with_their_error():
    one, _, records = session(PRODUCE_1)
    for key, version in ((11, 5), (12, 3), (13, 2), (14, 3), (10, 2)):
        got = replied(one.request(ask(make(key, version))).to_client, key, version)
        assert got.error_code == GROUP
    assert {one.verdict for one in records} == {Verdict.DROPPED}


def test_each_item_of_a_request_is_refused():
    one, _, _ = session(PRODUCE_1)
    got = replied(one.request(ask(make(10, 4, coordinator_keys=["a", "b"]))).to_client, 10, 4)
    assert [(c.key, c.error_code, c.node_id) for c in got.coordinators] == [("a", GROUP, -1), ("b", GROUP, -1)]
    got = replied(one.request(ask(make(15, 5, groups=["g"]))).to_client, 15, 5)
    assert [(g.group_id, g.error_code) for g in got.groups] == [("g", GROUP)]
    got = replied(one.request(ask(make(32, 4, resources=[{"resource_name": "topic1"}]))).to_client, 32, 4)
    assert [(r.resource_name, r.error_code) for r in got.results] == [("topic1", CLUSTER)]


@pytest.mark.parametrize(("key", "version"), VERSIONS)
def test_every_api_can_be_refused(key, version):
    one, _, records = session()
    step = one.request(ask(fill(load_request_schema(key, version), {})))
    assert not step.to_broker
    assert step.closed or replied(step.to_client, key, version)
    assert [record.verdict for record in records] == [Verdict.DROPPED]


def test_an_api_that_nobody_knows_passes_where_no_topic_matters():
    frame = framed(head(200, 0) + b"anything")
    one, _, _ = session(everything=True)
    assert one.request(frame).to_broker == frame
    one, _, _ = session(rule(topic="topic1"))
    assert one.request(frame).closed
    one, _, _ = session()
    assert one.request(frame).closed


@pytest.mark.parametrize("key", [44, 61, 68, 75, 78])
def test_a_later_api_is_no_way_around_a_topic(key):
    one, _, _ = session(rule(topic="topic1"))
    version = next(v for k, v in VERSIONS if k == key)
    assert not one.request(ask(fill(load_request_schema(key, version), {}))).to_broker


def test_topics_inside_of_groups_pass_all_or_not_at_all():
    one, _, _ = session(CONSUME_1)
    group = {"group_id": "g", "topics": [{"name": "topic1", "partition_indexes": [0]}]}
    assert one.request(ask(make(9, 8, groups=[group]))).to_broker
    through(one, answer(9, 8))
    for topics in ([{"name": "secret"}, {"name": "topic1"}], None):
        got = replied(one.request(ask(make(9, 8, groups=[{"group_id": "g", "topics": topics}]))).to_client, 9, 8)
        assert [(g.group_id, g.error_code) for g in got.groups] == [("g", GROUP)]


# ---- versions ----


def ranges(found):
    return {one.api_key: (one.min_version, one.max_version) for one in found.api_keys}


OFFERED = [{"api_key": key, "min_version": 0, "max_version": 30} for key in (0, 1, 3, 8, 9, 20, 75, 18, 999)]


def test_versions_are_those_that_name_topics_by_their_names():
    one, _, _ = session(everything=True)
    one.request(ask(make(18, 3)))
    got = ranges(replied(through(one, answer(18, 3, api_keys=OFFERED)), 18, 3))
    assert got == {0: (3, 12), 1: (4, 12), 3: (0, 13), 8: (2, 9), 9: (1, 7), 20: (1, 5), 18: (0, 4), 999: (0, 30)}


def test_without_clamping_versions_are_those_that_the_proxy_reads():
    one, _, _ = session(everything=True, clamp=False)
    one.request(ask(make(18, 3)))
    got = ranges(replied(through(one, answer(18, 3, api_keys=OFFERED)), 18, 3))
    assert (got[0], got[1], got[75]) == ((3, 13), (4, 18), (0, 0))


def test_a_version_of_apiversions_that_nobody_knows_is_answered_as_a_broker_does():
    one, _, _ = session(everything=True)
    got = replied(one.request(framed(head(18, 9) + b"\0\2x\2y\0")).to_client, 18, 0)
    assert (got.error_code, ranges(got)) == (ErrorCode.unsupported_version, {18: (0, 4)})


def test_a_broker_may_not_know_the_version_that_is_asked():
    one, _, _ = session(everything=True)
    one.request(ask(make(18, 4)))
    frame = reply(answer(18, 0, error_code=ErrorCode.unsupported_version, api_keys=OFFERED[:1]))
    assert one.answer_head(len(frame) - 4, 7)
    assert bytes(one.answer(frame)) == frame


# ---- order and size ----


def test_answers_keep_the_order_of_the_requests():
    one, _, _ = session(PRODUCE_1)
    sent = [
        one.request(ask(produce(topic), n))
        for n, topic in enumerate(["topic1", "secret", "secret", "topic1", "secret"])
    ]
    assert [bool(step.to_client) for step in sent] == [False] * 5
    assert [bool(step.to_broker) for step in sent] == [True, False, False, True, False]
    first = through(one, answer(0, 9), 0)
    second = through(one, answer(0, 9), 3)
    numbers, stream = [], first + second
    while stream:
        size = 4 + int.from_bytes(stream[:4])
        numbers.append(int.from_bytes(stream[4:8]))
        stream = stream[size:]
    assert numbers == [0, 1, 2, 3, 4]
    assert one.waiting == 0


def test_a_long_answer_is_not_held():
    one, _, records = session(CONSUME_1)
    one.request(ask(fetch("topic1")))
    assert not one.answer_head(LOOKED_AT_MAX + 1, 7)
    assert one.passed() == b""
    assert payloads(records, Phase.RESPONSE) == [(Verdict.FORWARDED, "topic1", 0)]


def test_an_answer_that_is_too_long_to_be_filtered_ends_the_connection():
    one, _, _ = session(CONSUME_1)
    one.request(ask(make(3, 12, topics=None)))
    with pytest.raises(Garbage):
        one.answer_head(REWRITTEN_MAX + 1, 7)


@pytest.mark.parametrize("correlation", [8, -1])
def test_an_answer_that_nobody_waits_for_ends_the_connection(correlation):
    one, _, _ = session(everything=True)
    with pytest.raises(Garbage):
        one.answer_head(100, 7)
    one.request(ask(produce("topic1")))
    with pytest.raises(Garbage):
        one.answer_head(100, correlation)


def test_errors_of_the_broker_are_recorded():
    one, _, records = session(PRODUCE_1)
    one.request(ask(produce("topic1")))
    parts = [{"error_code": ErrorCode.none}, {"error_code": ErrorCode.not_leader_or_follower}]
    through(one, answer(0, 9, responses=[{"name": "topic1", "partition_responses": parts}]))
    assert payloads(records, Phase.RESPONSE) == [(Verdict.FORWARDED, "topic1", 6)]


def test_an_answer_that_is_only_looked_at_passes_even_if_it_makes_no_sense():
    one, _, _ = session(PRODUCE_1)
    one.request(ask(produce("topic1")))
    frame = framed((7).to_bytes(4) + b"\xff" * 30)
    assert one.answer_head(len(frame) - 4, 7)
    assert bytes(one.answer(frame)) == frame


# ---- all that there is ----

RULES = st.builds(
    KafkaRule,
    st.frozensets(st.sampled_from([0, 1, 2, 3, 8, 9, 12, 18, 19, 20, 24, 27, 35, 68]), max_size=4),
    st.sampled_from([None, None, None, 3, 9]),
    st.sampled_from(["", "", "client", "another"]),
    st.sampled_from(["", *TOPICS[:2]]),
)
OFTEN = [one for one in VERSIONS if one[0] in {0, 1, 3, 9}] * 9
MANY = settings(max_examples=examples(120))


def lets(rules, key, version, topic):
    request = KafkaRequest(key, version, "client")
    return any(one.matches(request, topic) for one in rules)


@given(st.lists(RULES, max_size=4), st.sampled_from(VERSIONS), st.sampled_from([*TOPICS, "other"]))
def test_a_grant_says_what_the_rules_say(rules, version, topic):
    grant = Port(*rules).policy.grant(*version, "client")
    assert (grant.refs(topic) is not None) == lets(rules, *version, topic)


def check(step, rules, ids):
    """Whatever goes to the broker, rules let pass: as kio reads it, and nobody else."""
    if not step.to_broker:
        return
    frame = bytes(step.to_broker)
    key, version = int.from_bytes(frame[4:6]), int.from_bytes(frame[6:8])
    if not names_topics(key):
        assert lets(rules, key, version, None)
        return
    if lets(rules, key, version, None):
        return
    request = asked(frame)
    topics = named(request)
    assert topics or any(lets(rules, key, version, topic) for topic in TOPICS)
    for topic in topics:
        name = ids.get(topic) if isinstance(topic, UUID) else topic
        if name is None and key == 3:
            continue  # by an id: the answer is filtered
        assert name is not None and lets(rules, key, version, name), (topic, rules)
    if key == 1 and version >= 7:
        assert (request.session_id, request.session_epoch) == (0, -1)


@pytest.mark.slow
@MANY
@given(st.data(), st.lists(RULES, max_size=3), st.booleans())
def test_nothing_passes_that_rules_refuse(data, rules, clamp):
    one, port, _ = session(*rules, clamp=clamp)
    for number in range(data.draw(st.integers(1, 3))):
        key, version = data.draw(
            st.sampled_from([*VERSIONS, *((k, v) for k, v in VERSIONS if k in {0, 1, 3, 9} for _ in range(9))])
        )
        request = data.draw(entities(load_request_schema(key, version)))
        before = one.waiting
        step = one.request(ask(request, number))
        check(step, rules, port.ids)
        if step.to_client:
            try:
                replied(step.to_client, key, version, number)
            except AssertionError:
                assert key == 18
        assert step.to_client or step.closed or one.waiting == before + 1 or (key == 0 and request.acks == 0)


@pytest.mark.slow
@MANY
@given(st.data(), st.lists(RULES, min_size=1, max_size=3), st.sampled_from(VERSIONS))
def test_no_bytes_get_past_the_rules(data, rules, version):
    one, port, _ = session(*rules)
    frame = bytearray(ask(data.draw(entities(load_request_schema(*version)))))
    for _ in range(data.draw(st.integers(0, 4))):
        frame[data.draw(st.integers(4, len(frame) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        frame = framed(bytes(frame[4 : data.draw(st.integers(4, len(frame)))]))
    try:
        step = one.request(bytes(frame))
    except Garbage:
        return
    sent = bytes(step.to_broker)
    if sent and sent[12:20] == b"\0\6client":
        check(step, rules, port.ids)


@given(st.binary(max_size=200), st.lists(RULES, max_size=3))
def test_any_bytes_are_judged_or_garbage(data, rules):
    one, _, _ = session(*rules)
    try:
        one.request(framed(data))
    except Garbage:
        pass


@pytest.mark.slow
@MANY
@given(st.data(), st.sampled_from([(k, v) for k, v in VERSIONS if k in {0, 1, 2, 3, 8, 9, 18, 19, 20, 23, 24}]))
def test_no_answer_tells_of_a_topic_that_is_refused(data, version):
    rules = [rule(version[0], topic="topic1")]
    one, port, _ = session(*rules)
    request = data.draw(entities(load_request_schema(*version)))
    step = one.request(ask(request))
    if not one.waiting:
        assert not step.to_broker or version[0] == 0
        return
    if data.draw(st.booleans()):
        port.allow(*rules)
    response = data.draw(entities(load_response_schema(*version)))
    frame = reply(response)
    if not one.answer_head(len(frame) - 4, 7):
        one.passed()
        return
    got = replied(one.answer(frame), *version)
    if version[0] == 3:
        seen = {topic.name for topic in got.topics if topic.error_code in {0, 3} and topic.name is not None}
        assert seen <= {"topic1"} | {t.name for t in got.topics if t.error_code == DENIED}


@given(st.binary(max_size=100), st.sampled_from([0, 1, 3, 18]))
def test_any_bytes_may_come_from_a_broker(data, key):
    one, _, _ = session(rule(key, topic="topic1"))
    version = max(v for k, v in VERSIONS if k == key and v < 13)
    one.request(ask(fill(load_request_schema(key, version), {"acks": 1})))
    if one.waiting:
        frame = framed((7).to_bytes(4) + data)
        try:
            one.answer_head(len(frame) - 4, 7)
            one.answer(frame)
        except Garbage:
            pass


def test_grants_of_many_clients_are_not_kept_for_ever():
    policy: Policy = Port(PRODUCE_1).policy
    for number in range(2000):
        policy.grant(0, 9, f"client{number}")
    assert len(policy._grants) <= 256
    assert PIPELINED_MAX >= 5


def test_encoded_is_what_is_sent():
    request = produce("topic1")
    assert ask(request).endswith(encoded(request))
