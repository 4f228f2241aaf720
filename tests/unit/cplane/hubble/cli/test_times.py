"""Durations, dates and layouts."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cplane.hubble.cli.times import LAYOUTS, NS, PROTOJSON, TimeText, parse_duration, parse_instant

NOW = 1_721_815_331_123_456_789  # 2024-07-24T10:02:11.123456789Z


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3s", 3 * NS),
        ("4m", 240 * NS),
        ("1h43m", 6180 * NS),
        ("1.5h", 5400 * NS),
        (".5s", NS // 2),
        ("1.s", NS),
        ("300ms", 300_000_000),
        ("2us", 2_000),
        ("2µs", 2_000),
        ("7ns", 7),
        ("-2s", -2 * NS),
        ("+2s", 2 * NS),
        ("0", 0),
        ("-0", 0),
        ("", None),
        ("-", None),
        ("5", None),
        ("s", None),
        ("3 s", None),
        ("3d", None),
        ("1h ", None),
        ("٣s", None),
        ("2562048h", None),
    ],
)
def test_a_duration_is_what_go_reads(text: str, expected: int | None):
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-07-24", "2024-07-24T00:00:00"),
        ("2024-07-24T10Z", "2024-07-24T10:00:00"),
        ("2024-07-24T10-07:00", "2024-07-24T17:00:00"),
        ("2024-07-24T10:02+02:00", "2024-07-24T08:02:00"),
        ("2024-07-24T10:02:11Z", "2024-07-24T10:02:11"),
        ("2024-07-24T10:02:11.5Z", "2024-07-24T10:02:11.500000"),
        ("2024-07-24T10:02:11,25Z", "2024-07-24T10:02:11.250000"),
        ("2024-07-24T10:02:11.123456+05:30", "2024-07-24T04:32:11.123456"),
        ("Wed, 24 Jul 2024 10:02:11 +0000", "2024-07-24T10:02:11"),
        ("Wed, 24 Jul 2024 10:02:11 -0700", "2024-07-24T17:02:11"),
    ],
)
def test_a_date_is_read_in_every_layout_that_knows_its_zone(text: str, expected: str):
    assert parse_instant(text, NOW) == int(datetime.fromisoformat(f"{expected}+00:00").timestamp() * 1_000_000) * 1_000


def test_nanoseconds_are_kept():
    assert parse_instant("2024-07-24T10:02:11.123456789Z", 0) == NOW
    assert parse_instant("2024-07-24T10:02:11.1234567891Z", 0) == NOW


def test_a_duration_is_before_now():
    assert parse_instant("1m", NOW) == NOW - 60 * NS
    assert parse_instant("-1m", NOW) == NOW + 60 * NS


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "2024-13-01",
        "2024-02-30T10:00:00Z",
        "2024-07-24T24:00:00Z",
        "2024-07-24T10:02:11",
        "Jul 24 10:02:11.123",
        "Wed, 24 Jux 2024 10:02:11 +0000",
        "9999-12-31T23:00:00-25:00",
        "",
    ],
)
def test_what_is_no_time_is_named(text: str):
    with pytest.raises(ValueError, match="failed to convert") as told:
        parse_instant(text, NOW)
    assert str(told.value) == f"failed to convert {text} to time"


@pytest.mark.parametrize(
    ("layout", "expected", "even"),
    [
        ("StampMilli", "Jul 24 10:02:11.123", "Jan  1 00:00:00.000"),
        ("YearMonthDay", "2024-07-24", "1970-01-01"),
        ("YearMonthDayHour", "2024-07-24T10Z", "1970-01-01T00Z"),
        ("YearMonthDayHourMinute", "2024-07-24T10:02Z", "1970-01-01T00:00Z"),
        ("RFC3339", "2024-07-24T10:02:11Z", "1970-01-01T00:00:00Z"),
        ("RFC3339Milli", "2024-07-24T10:02:11.123Z", "1970-01-01T00:00:00Z"),
        ("RFC3339Micro", "2024-07-24T10:02:11.123456Z", "1970-01-01T00:00:00Z"),
        ("RFC3339Nano", "2024-07-24T10:02:11.123456789Z", "1970-01-01T00:00:00Z"),
        ("RFC1123Z", "Wed, 24 Jul 2024 10:02:11 +0000", "Thu, 01 Jan 1970 00:00:00 +0000"),
    ],
)
def test_every_layout_writes_as_go_does(layout: str, expected: str, even: str):
    text = TimeText(LAYOUTS[layout])
    assert text(*divmod(NOW, NS)) == expected
    assert text(0, 0) == even


def test_zeros_at_the_end_of_a_fraction_are_left_out_or_kept_as_the_layout_says():
    half = (0, 500_000_000)
    assert TimeText(LAYOUTS["RFC3339Nano"])(*half) == "1970-01-01T00:00:00.5Z"
    assert TimeText(LAYOUTS["RFC3339Milli"])(0, 999) == "1970-01-01T00:00:00Z"
    assert TimeText(LAYOUTS["StampMilli"])(*half) == "Jan  1 00:00:00.500"
    for nanos, shown in ((0, ""), (500_000_000, ".500"), (1_000, ".000001"), (1, ".000000001")):
        assert TimeText(PROTOJSON)(0, nanos) == f"1970-01-01T00:00:00{shown}Z"


@pytest.mark.parametrize(
    ("seconds", "nanos"), [(-62_135_596_801, 0), (253_402_300_800, 0), (0, -1), (0, NS), (1 << 62, 0)]
)
def test_a_time_that_no_calendar_has_is_not_available(seconds: int, nanos: int):
    text = TimeText(LAYOUTS["RFC3339"])
    assert text(seconds, nanos) == "N/A"
    assert text(0, 0) == "1970-01-01T00:00:00Z"
    with pytest.raises(ValueError, match="no calendar has"):
        TimeText(PROTOJSON, strict=True)(seconds, nanos)


@given(st.lists(st.tuples(st.integers(-62_135_596_800, 253_402_300_799), st.integers(0, NS - 1)), max_size=8))
def test_what_is_written_is_read_again(times: list[tuple[int, int]]):
    text = TimeText(PROTOJSON)
    for seconds, nanos in times:
        assert parse_instant(text(seconds, nanos), 0) == seconds * NS + nanos


def test_the_calendar_has_ends():
    text = TimeText(PROTOJSON)
    assert text(-62_135_596_800, 0) == "0001-01-01T00:00:00Z"
    assert text(253_402_300_799, 999_999_999) == "9999-12-31T23:59:59.999999999Z"
    assert datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp() == 253_402_300_799
