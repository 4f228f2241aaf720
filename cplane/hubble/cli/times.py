"""Times as users write and read them: Go's durations, and the layouts of upstream's command, always in UTC."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Final, NamedTuple

NS: Final = 1_000_000_000
_UNITS: Final = {"ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000, "s": NS, "m": 60 * NS, "h": 3600 * NS}
_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION_MAX: Final = (1 << 63) - 1  # as Go has it: 292 years
_INSTANT: Final = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)"
    r"(?:T(?P<hour>\d\d)(?::(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?)?"
    r"(?P<zone>Z|[+-]\d\d:\d\d))?",
    re.ASCII,
)
_MAIL: Final = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<day>\d\d) (?P<month>[A-Z][a-z]{2}) (?P<year>\d{4}) "
    r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d) (?P<zone>[+-]\d{4})",
    re.ASCII,
)
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# of google.protobuf.Timestamp: the years 1 to 9999
_SECONDS_MIN: Final = -62_135_596_800
_SECONDS_MAX: Final = 253_402_300_799


def parse_duration(text: str) -> int | None:
    """Nanoseconds of `3s`, `1h43m`, `1.5h`, `-2ms` or `0`; None for what is no duration."""
    rest = text.removeprefix("-") if text.startswith("-") else text.removeprefix("+")
    if rest == "0":
        return 0
    total, at = Decimal(0), 0
    while at < len(rest):
        part = _PART.match(rest, at)
        if part is None:
            return None
        total += Decimal(part[1]) * _UNITS[part[2]]
        at = part.end()
    if not rest or total > _DURATION_MAX:
        return None
    return -int(total) if text.startswith("-") else int(total)


def parse_instant(text: str, now_ns: int) -> int:
    """UTC nanoseconds of a duration before now, or of a date in one of the layouts. Raises ValueError."""
    duration = parse_duration(text)
    if duration is not None:
        return now_ns - duration
    found = _parse_date(text)
    if found is None:
        raise ValueError(f"failed to convert {text} to time")
    return found


def _parse_date(text: str) -> int | None:
    match, mail = _INSTANT.fullmatch(text), _MAIL.fullmatch(text)
    fraction = ""
    try:
        if match is not None:
            year, month, day = map(int, match["date"].split("-"))
            fraction = match["fraction"] or ""
        elif mail is not None:
            match = mail
            year, month, day = int(mail["year"]), _MONTHS.index(mail["month"]) + 1, int(mail["day"])
        else:
            return None
        hour, minute, second = (int(match[name] or 0) for name in ("hour", "minute", "second"))
        at = datetime(year, month, day, hour, minute, second, tzinfo=_zone(match["zone"]))
        since = at - _EPOCH  # raises where the zone leads out of the calendar
    except (ValueError, OverflowError):
        return None
    return (since.days * 86_400 + since.seconds) * NS + int(fraction[:9].ljust(9, "0"))


def _zone(text: str | None) -> timezone:
    if text is None or text == "Z":
        return UTC
    hours, minutes = int(text[1:3]), int(text[-2:])
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


class NoSuchTime(ValueError):
    """A time that no calendar has."""


class Layout(NamedTuple):
    """How a time is written: what stays the same within a second, its fraction, and what follows."""

    second: Callable[[datetime], str]
    fraction: Callable[[int], str]
    end: str


def _date(at: datetime) -> str:
    return f"{at.year:04d}-{at.month:02d}-{at.day:02d}"


def _clock(at: datetime) -> str:
    return f"{at.hour:02d}:{at.minute:02d}:{at.second:02d}"


_MILLIS: Final = tuple(f".{number:03d}" for number in range(1000))


def _millis(nanos: int) -> str:
    return _MILLIS[nanos // 1_000_000]


def _no_fraction(_nanos: int) -> str:
    return ""


def _up_to(digits: int) -> Callable[[int], str]:
    """So many digits at most, without zeros at the end."""

    def fraction(nanos: int) -> str:
        shown = f"{nanos:09d}"[:digits].rstrip("0")
        return f".{shown}" if shown else ""

    return fraction


def _thousandfold(nanos: int) -> str:
    """0, 3, 6 or 9 digits, as protojson writes them."""
    if not nanos:
        return ""
    if not nanos % 1_000_000:
        return _millis(nanos)
    return f".{nanos:09d}" if nanos % 1_000 else f".{nanos // 1_000:06d}"


def _long(at: datetime) -> str:
    return f"{_date(at)}T{_clock(at)}"


LAYOUTS: Final = {
    "StampMilli": Layout(lambda at: f"{_MONTHS[at.month - 1]} {at.day:2d} {_clock(at)}", _millis, ""),
    "YearMonthDay": Layout(_date, _no_fraction, ""),
    "YearMonthDayHour": Layout(lambda at: f"{_date(at)}T{at.hour:02d}", _no_fraction, "Z"),
    "YearMonthDayHourMinute": Layout(lambda at: f"{_date(at)}T{at.hour:02d}:{at.minute:02d}", _no_fraction, "Z"),
    "RFC3339": Layout(_long, _no_fraction, "Z"),
    "RFC3339Milli": Layout(_long, _up_to(3), "Z"),
    "RFC3339Micro": Layout(_long, _up_to(6), "Z"),
    "RFC3339Nano": Layout(_long, _up_to(9), "Z"),
    "RFC1123Z": Layout(
        lambda at: f"{_DAYS[at.weekday()]}, {at.day:02d} {_MONTHS[at.month - 1]} {at.year:04d} {_clock(at)}",
        _no_fraction,
        " +0000",
    ),
}
PROTOJSON: Final = Layout(_long, _thousandfold, "Z")


class TimeText:
    """Writes times in one layout. Remembers the last second, which many flows share.

    A time that no calendar has is `N/A`; `strict` writers raise NoSuchTime.
    """

    def __init__(self, layout: Layout, *, strict: bool = False) -> None:
        self._layout, self._strict = layout, strict
        self._second, self._text = 1 << 64, ""  # a second that no message can have

    def __call__(self, seconds: int, nanos: int) -> str:
        """The time of a google.protobuf.Timestamp."""
        if seconds != self._second:
            if not _SECONDS_MIN <= seconds <= _SECONDS_MAX:
                return self._invalid(seconds, nanos)
            self._second, self._text = seconds, self._layout.second(_EPOCH + timedelta(seconds=seconds))
        if not 0 <= nanos < NS:
            return self._invalid(seconds, nanos)
        return f"{self._text}{self._layout.fraction(nanos)}{self._layout.end}"

    def _invalid(self, seconds: int, nanos: int) -> str:
        if self._strict:
            raise NoSuchTime(f"a time that no calendar has, {seconds} s and {nanos} ns")
        return "N/A"
