"""DNS messages are read as servers read them, or not at all; and whatever comes, nothing breaks."""

import struct
from ipaddress import ip_address

import pytest
from dnslib import EDNS0, QTYPE, RCODE, RR, DNSHeader, DNSQuestion, DNSRecord
from hypothesis import example, given
from hypothesis import strategies as st

from cplane.domain.policy.dns import DnsRule
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.verdict import Direction
from cplane.proxy.channel import DnsTerm, PutDns
from cplane.proxy.dnsrules import Rules
from cplane.proxy.dnswire import (
    NXDOMAIN,
    REFUSED,
    Answer,
    BadMessage,
    in_one_packet,
    is_truncated,
    read_answer,
    read_query,
    refusal,
    type_name,
    with_id,
)

REF = PolicyRef("CiliumNetworkPolicy", "shop", "names")


def asked(name: str = "www.Example.com", kind: str = "A", number: int = 77) -> bytes:
    return bytes(DNSRecord(DNSHeader(id=number, rd=1), q=DNSQuestion(name, getattr(QTYPE, kind))).pack())


def raw(*labels: bytes, number: int = 7, kind: int = 1, flags: int = 0x100, questions: int = 1) -> bytes:
    name = b"".join(bytes([len(one)]) + one for one in labels) + b"\0"
    return struct.pack(">6H", number, flags, questions, 0, 0, 0) + name + struct.pack(">2H", kind, 1)


def answered(query: bytes, *records: str, rcode: int = 0) -> bytes:
    made = DNSRecord.parse(query).reply()
    for one in records:
        made.add_answer(*RR.fromZone(one))
    made.header.rcode = rcode
    return bytes(made.pack())


def test_a_question_is_read() -> None:
    found = read_query(asked("www.Example.com", "AAAA"))
    assert (found.name, found.qtypes) == ("www.example.com.", ("AAAA",))


@pytest.mark.parametrize("number", [65, 255, 256, 97])
def test_types_are_not_taken_for_letters(number: int) -> None:
    upper, lower = read_query(raw(b"a", kind=0x4141)), read_query(raw(b"a", kind=0x6161))
    assert upper.section != lower.section
    assert read_query(raw(b"A", kind=number)).section == read_query(raw(b"a", kind=number)).section


def test_a_dot_within_a_label_separates_nothing() -> None:
    found = read_query(raw(b"www.example", b"com"))
    assert found.name == r"www\046example.com."
    assert not DnsRule("www.example.com.", "**.com").matches(found.name)
    assert read_query(raw()).name == "."


@pytest.mark.parametrize(
    ("data", "reason", "answerable"),
    [
        (b"", "too short", False),
        (raw(b"a", flags=0x8100), "an answer", False),
        (raw(b"a", flags=0x2800), "something else", True),
        (raw(b"a", questions=0), "0 questions", True),
        (raw(b"a", questions=2), "2 questions", True),
        (raw(b"a") + bytes(4096), "too long", True),
        (raw(b"a")[:-3], "cut off", False),
        (raw(b"a")[:14], "cut off", False),
        (struct.pack(">6H", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c" + bytes(4), "abbreviated", False),
        (raw(*[b"a" * 63] * 4), "too long", False),
    ],
)
def test_what_is_no_plain_question_is_refused(data: bytes, reason: str, answerable: bool) -> None:
    with pytest.raises(BadMessage, match=reason) as caught:
        read_query(data)
    assert caught.value.answerable is answerable


def test_addresses_are_those_of_the_name_and_of_what_it_is_an_alias_of_in_any_order() -> None:
    query = asked("www.example.com")
    records = (
        "a.cdn.example. 9 A 192.0.2.2",
        "b.cdn.example. 20 CNAME a.cdn.example.",
        "www.example.com. 60 CNAME b.cdn.example.",
        "a.cdn.example. 30 A 192.0.2.1",
        "evil.example. 1 A 203.0.113.1",
    )
    for some in (records, records[::-1]):
        found = read_answer(answered(query, *some), read_query(query), 77)
        assert set(found.ips) == {"192.0.2.1", "192.0.2.2"}
        assert found.ttl == 9
        assert found.cnames == ("b.cdn.example.", "a.cdn.example.")
        assert set(found.rrtypes) == {"A", "CNAME"}


def test_a_circle_of_aliases_has_no_address() -> None:
    query = asked("a.example")
    found = read_answer(
        answered(query, "a.example. 1 CNAME b.example.", "b.example. 1 CNAME a.example."), read_query(query), 77
    )
    assert (found.ips, found.cnames) == ((), ("b.example.", "a.example."))


def test_only_an_answer_to_the_question_is_one() -> None:
    query = read_query(asked("a.example"))
    good = answered(asked("A.Example"), "a.example. 5 A 192.0.2.1")
    assert read_answer(good, query, 77).ips == ("192.0.2.1",)
    for bad in (
        with_id(good, 78),
        answered(asked("b.example"), "b.example. 5 A 192.0.2.1"),
        answered(asked("a.example", "AAAA"), "a.example. 5 A 192.0.2.1"),
        asked("a.example"),
        good[:11],
        good[:20],
    ):
        with pytest.raises(BadMessage):
            read_answer(bad, query, 77)


def test_an_error_may_come_without_the_question_and_never_with_addresses() -> None:
    query = read_query(asked("a.example"))
    assert read_answer(struct.pack(">6H", 77, 0x8181, 0, 0, 0, 0), query, 77) == Answer(1)
    for flags, answers in ((0x8180, 0), (0x8181, 1)):
        with pytest.raises(BadMessage):
            read_answer(struct.pack(">6H", 77, flags, 0, answers, 0, 0), query, 77)


@pytest.mark.parametrize("cut", range(1, 28))
def test_records_that_are_cut_off_teach_nothing(cut: int) -> None:
    query = asked("a.example")
    data = answered(query, "a.example. 5 A 192.0.2.1", "a.example. 5 A 192.0.2.2")
    found = read_answer(data[:-cut], read_query(query), 77)
    assert found.malformed
    assert not found.ips


def test_a_refusal_repeats_the_question_as_it_was_asked_and_says_what_it_understands() -> None:
    data = asked("www.Example.com")
    made = DNSRecord.parse(refusal(data, REFUSED, read_query(data)))
    assert (made.header.id, made.header.qr, made.header.rd, made.header.rcode) == (77, 1, 1, RCODE.REFUSED)
    assert str(made.q.qname) == "www.Example.com."
    edns = DNSRecord.parse(data)
    edns.add_ar(EDNS0(udp_len=1232))
    data = bytes(edns.pack())
    made = DNSRecord.parse(refusal(data, NXDOMAIN, read_query(data)))
    assert (made.header.rcode, len(made.ar)) == (RCODE.NXDOMAIN, 1)
    assert DNSRecord.parse(refusal(raw(b"a", questions=2), REFUSED)).header.rcode == RCODE.REFUSED


@pytest.mark.parametrize(("takes", "asks"), [(0, 0), (512, 512), (1232, 1232), (1233, 1232), (65535, 1232)])
def test_a_server_is_asked_for_no_more_than_one_packet(takes: int, asks: int) -> None:
    made = DNSRecord.parse(asked("www.Example.com"))
    made.add_ar(EDNS0(flags="do", udp_len=takes))
    data = bytes(made.pack())
    found = DNSRecord.parse(in_one_packet(data, read_query(data)))
    assert found.ar[0].rclass == asks
    found.ar[0].rclass = takes
    assert found.pack() == data, "and nothing else is changed"


def test_a_question_that_may_be_signed_or_says_nothing_of_sizes_stays_as_it_is() -> None:
    made = DNSRecord.parse(asked())
    assert in_one_packet(asked(), read_query(asked())) == asked()
    made.add_ar(EDNS0(udp_len=4096))
    made.add_ar(*RR.fromZone("key.example. 0 ANY TYPE250 \\# 1 00"))
    data = bytes(made.pack())
    assert in_one_packet(data, read_query(data)) == data


def test_a_type_without_a_name_has_its_number() -> None:
    assert (type_name(28), type_name(65280)) == ("AAAA", "TYPE65280")
    assert is_truncated(struct.pack(">6H", 1, 0x8380, 0, 0, 0, 0))
    assert not is_truncated(b"")


LABELS = st.lists(
    st.one_of(st.binary(min_size=1, max_size=20), st.sampled_from([b"a", b"example", b"com"])), max_size=6
)
MESSAGES = st.one_of(
    st.binary(max_size=600),
    st.builds(
        lambda labels, flags, more: raw(*labels, flags=flags) + more,
        LABELS,
        st.sampled_from([0, 0x100, 0x8180]),
        st.binary(max_size=64),
    ),
    st.builds(lambda head, tail: asked("a.example")[:head] + tail, st.integers(0, 31), st.binary(max_size=200)),
)
ALLOWED = Rules(PutDns(10_001, Direction.EGRESS, (DnsTerm(REF, "spec", (DnsRule("a.example.", "*.example.com"),)),)))


@given(MESSAGES)
@example(asked("a.example"))
def test_no_message_breaks_the_proxy_and_none_is_let_through_that_servers_read_otherwise(data: bytes) -> None:
    try:
        query = read_query(data)
    except BadMessage as error:
        if error.answerable:
            assert refusal(data, REFUSED)[:2] == data[:2]
        return
    made = refusal(data, REFUSED, query)
    assert made[3] & 0xF == REFUSED
    if ALLOWED.allowing(query.name) is None:
        return
    theirs = DNSRecord.parse(
        with_id(data, 0)[: 12 + len(query.section)][:4]
        + struct.pack(">4H", 1, 0, 0, 0)
        + data[12 : 12 + len(query.section)]
    )
    name = str(theirs.q.qname).lower()
    assert name == "a.example." or (name.endswith(".example.com.") and name.count(".") == 3)


@given(MESSAGES, st.integers(0, 0xFFFF))
def test_no_answer_breaks_the_proxy(data: bytes, number: int) -> None:
    query = read_query(asked("a.example"))
    for one in (data, with_id(data, number) if len(data) >= 2 else data):
        try:
            found = read_answer(one, query, number)
        except BadMessage:
            continue
        assert all(map(ip_address, found.ips))


@given(st.binary(max_size=300), st.integers(0, 40))
def test_no_record_breaks_the_proxy(records: bytes, count: int) -> None:
    data = asked("a.example")
    made = struct.pack(">6H", 77, 0x8180, 1, count, 0, 0) + data[12:] + records
    found = read_answer(made, read_query(data), 77)
    assert found.malformed or count == 0 or records


def test_terms_without_rules_let_everything_pass_and_those_with_none_nothing() -> None:
    everything = Rules(PutDns(1, Direction.EGRESS, (DnsTerm(None, "", None), DnsTerm(REF, "a", ()))))
    assert everything.allowing("any.thing.") == ()
    nothing = Rules(PutDns(1, Direction.EGRESS, (DnsTerm(REF, "a", ()),)))
    assert nothing.allowing("any.thing.") is None
    assert Rules(PutDns(1, Direction.EGRESS, ())).allowing("a.") is None
    assert ALLOWED.allowing("a.example.") == (REF,)
    assert ALLOWED.allowing("b.example.") is None
