"""What users may write for a moment."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cplane.timetravel.when import HEAD, BadMoment, end_of_ms, instant, position_or_ns

NS = 1_000_000_000
NOW = 1_767_225_600 * NS + 15 * 3600 * NS  # 2026-01-01T15:00:00Z


@pytest.mark.parametrize(
    ("text", "seconds_ago"),
    [
        ("2h", 7200),
        ("-2h", 7200),
        ("2h ago", 7200),
        ("90s", 90),
        ("1d12h", 129_600),
        ("1w", 604_800),
        ("5m30s ago", 330),
        ("14:03", 57 * 60),
        ("14:03:05", 57 * 60 - 5),
        ("14:03Z", 57 * 60),
        ("2026-01-01T14:03:00Z", 57 * 60),
        ("2026-01-01T15:03:00+01:00", 57 * 60),
        ("2026-01-01T14:03:00", 57 * 60),
        ("2026-01-01 14:03", 57 * 60),
        ("2026-01-01", 15 * 3600),
        (" 2h ", 7200),
    ],
)
def test_times_can_be_written_in_these_ways(text: str, seconds_ago: int) -> None:
    assert position_or_ns(text, NOW) == (None, NOW - seconds_ago * NS)


def test_fractions_of_a_second_are_read_to_the_nanosecond_of_a_clock() -> None:
    assert position_or_ns("14:03:05.25", NOW)[1] == NOW - (57 * 60 - 5) * NS + NS // 4
    assert position_or_ns("2026-01-01T14:03:05.123Z", NOW)[1] == NOW - (57 * 60 - 5) * NS + 123_000_000


def test_positions_are_plain_numbers_and_the_last_one_has_a_name() -> None:
    assert position_or_ns("0", NOW)[0] == 0
    assert position_or_ns("1234", NOW)[0] == 1234
    assert position_or_ns("head", NOW)[0] == HEAD


@pytest.mark.parametrize(
    "text",
    ["", "-", "ago", "-2", "2x", "h", "25:00", "14:60", "14:3", "yesterday", "2026-13-01", "²", "9" * 30, "2h2"],
)
def test_anything_else_is_refused_with_what_can_be_written(text: str) -> None:
    with pytest.raises(BadMoment, match="write a position"):
        position_or_ns(text, NOW)


def test_a_date_that_does_not_exist_is_refused_with_the_reason() -> None:
    with pytest.raises(BadMoment, match=r"2026-02-30.*day is out of range"):
        position_or_ns("2026-02-30", NOW)


@given(st.text(max_size=20))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    position, at_ns = None, 0
    with contextlib.suppress(BadMoment):
        position, at_ns = position_or_ns(text, NOW)
    assert position is None or position >= HEAD
    assert at_ns <= 253_402_300_800 * NS


@given(st.integers(0, 4_102_444_800 * NS))
def test_what_is_shown_of_a_time_means_that_time_again(at_ns: int) -> None:
    assert end_of_ms(position_or_ns(instant(at_ns), NOW)[1]) == end_of_ms(at_ns)


@pytest.mark.parametrize("at_ns", [-(1 << 63), (1 << 63) - 1, 0])
def test_times_that_no_calendar_has_are_shown_too(at_ns: int) -> None:
    assert instant(at_ns)
