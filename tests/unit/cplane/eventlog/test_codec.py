"""Events become bytes that read back as they were, or are refused; rows that were meddled with are found."""

import msgspec
import pytest

from cplane.eventlog.codec import (
    EVENT_BYTES_MAX,
    GENESIS,
    decode,
    decode_all,
    digest_of,
    draft,
    encode,
)
from cplane.eventlog.errors import BadEvent, UnknownEvent, Unwritable
from cplane.events.catalog import CATALOG, WIRE_NAME
from cplane.events.endpoint import EndpointDeleted, EndpointRelabelled
from cplane.events.node import NodeAddressesChanged
from tests.support.events import SAMPLES
from tests.support.log import fact, proposal

SAMPLE_IDS = [WIRE_NAME[type(event)][0] for event in SAMPLES]


def stored(event=None, *, position=1, previous=GENESIS, **changed):
    """A row as a reader gets it, and with columns changed behind the back of its digest."""
    (one,) = draft(proposal(0, event or fact(1)))
    row, _ = one.row(position, 1, 1_700_000_000_000_000_000, previous)
    columns = ("position", "stream", "version", "type", "schema", "recorded_at_ns", "actor", "cause", "data", "digest")
    values = [value.encode() if isinstance(value, str) else value for value in row]
    return tuple(({**dict(zip(columns, values, strict=True)), **changed}).values())


def test_every_type_has_one_name_and_every_name_one_type():
    assert {cls: name for name, cls in CATALOG.items()} == WIRE_NAME
    assert len(WIRE_NAME) == len(CATALOG)


@pytest.mark.parametrize("event", SAMPLES, ids=SAMPLE_IDS)
def test_an_event_reads_back_as_it_was(event):
    assert decode(stored(event)).event == event


@pytest.mark.parametrize("event", SAMPLES, ids=SAMPLE_IDS)
def test_an_event_cannot_be_changed(event):
    with pytest.raises(AttributeError):
        setattr(event, event.__struct_fields__[0], None)


def test_a_field_that_came_later_has_its_default_in_events_that_came_before():
    row = stored(SAMPLES[2], data=b'{"pool":"p","cidr":"10.0.0.0/8"}')
    assert decode(row).event == msgspec.structs.replace(SAMPLES[2], pool="p", cidr="10.0.0.0/8", reserved=())


def test_a_field_that_a_newer_version_added_is_passed_over():
    assert decode(stored(data=b'{"name":"n1","addresses":[],"since":7}')).event == NodeAddressesChanged(
        name="n1", addresses=()
    )


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (NodeAddressesChanged(name=7, addresses=()), "Expected `str`"),  # type: ignore[arg-type]
        (EndpointRelabelled(endpoint=1, labels=["k8s:a=b"], identity=1), "would read back as"),  # type: ignore[arg-type]
        (EndpointDeleted(endpoint=1.0), "Expected `int`|would read back"),  # type: ignore[arg-type]
        (EndpointDeleted(endpoint=None), "Expected `int`"),  # type: ignore[arg-type]
        (NodeAddressesChanged(name=object(), addresses=()), "unsupported"),  # type: ignore[arg-type]
        (NodeAddressesChanged(name="\udcff", addresses=()), "surrogates"),
    ],
)
def test_an_event_that_would_not_read_back_is_refused(event, reason):
    with pytest.raises(Unwritable, match=reason) as refused:
        encode(event)
    assert refused.value.what == f"event {WIRE_NAME[type(event)][0]}"


def test_an_event_has_a_greatest_size_and_one_byte_less_is_taken():
    empty = len(draft(proposal(0, NodeAddressesChanged(name="", addresses=())))[0].texts)
    (whole,) = draft(proposal(0, NodeAddressesChanged(name="x" * (EVENT_BYTES_MAX - empty), addresses=())))
    assert len(whole.texts) == EVENT_BYTES_MAX
    with pytest.raises(Unwritable, match=f"it takes {EVENT_BYTES_MAX + 1} bytes and may have {EVENT_BYTES_MAX}"):
        draft(proposal(0, NodeAddressesChanged(name="x" * (EVENT_BYTES_MAX - empty + 1), addresses=())))


def test_a_stream_must_be_text_too():
    with pytest.raises(Unwritable, match="stream"):
        draft(proposal(0, stream="\ud800"))


def test_the_digest_covers_every_column_and_where_one_ends():
    row = stored()
    assert digest_of(row, GENESIS) == row[-1]
    others = {
        digest_of(stored(**changed), GENESIS)
        for changed in (
            {"position": 2},
            {"stream": b"nodf"},
            {"version": 2},
            {"type": b"node.joined"},
            {"schema": 2},
            {"recorded_at_ns": 1_700_000_000_000_000_001},
            {"actor": b"uid:1(x)"},
            {"cause": b""},
            {"data": b"{}"},
            {"actor": row[6] + b"t", "cause": row[7][1:]},
            {"stream": row[1][:-1], "type": row[1][-1:] + row[3]},
        )
    }
    assert len(others) == 11
    assert row[-1] not in others
    assert digest_of(row, b"\1" * 32) != row[-1]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"data": b"{"}, "truncated"),
        ({"data": b""}, "truncated"),
        ({"data": b"null"}, "Expected `object`, got `null`"),
        ({"data": b'{"name":"n1"}'}, "missing required field `addresses`"),
        ({"data": b'{"name":7,"addresses":[]}'}, "Expected `str`"),
        ({"data": b'{"name":"\xff","addresses":[]}'}, "utf-8"),
        ({"stream": b"\xff"}, "utf-8"),
        ({"actor": b"\xff"}, "utf-8"),
        ({"cause": b"\xff"}, "utf-8"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_by_its_position(changed, reason):
    with pytest.raises(BadEvent, match=rf"position 7: the event cannot be read: .*{reason}") as bad:
        decode(stored(position=7, **changed))
    assert bad.value.position == 7


@pytest.mark.parametrize("changed", [{"type": b"node.moved"}, {"type": b"\xff"}, {"schema": 2}])
def test_an_event_of_a_type_that_is_not_known_yet_asks_for_a_newer_version(changed):
    with pytest.raises(UnknownEvent, match="it was written by a newer one, run that"):
        decode(stored(**changed))


@pytest.mark.parametrize(
    "changed",
    [{"data": None}, {"actor": 7}, {"version": "1"}, {"schema": None}, {"recorded_at_ns": 1.5}, {"version": 1 << 63}],
)
def test_a_column_of_another_type_is_found_when_digests_are_compared(changed):
    with pytest.raises(BadEvent, match="position 1: a column holds a value of the wrong type"):
        digest_of(stored(**changed), GENESIS)


def test_rows_that_do_not_follow_one_another_are_found():
    rows = [stored(position=position) for position in (3, 4, 6)]
    assert [one.position for one in decode_all(rows[:2], 2)] == [3, 4]
    with pytest.raises(BadEvent, match="position 5: the event is missing"):
        decode_all(rows, 2)
    with pytest.raises(BadEvent, match="position 1: the event is missing"):
        decode_all(rows, 0)
