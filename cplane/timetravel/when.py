"""Which moment a user means: a position, a time, or how long ago."""

import re
from datetime import UTC, datetime
from typing import Final

from cplane.errors import Rejected

_NS: Final = 1_000_000_000
_UNITS: Final = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_AGO: Final = re.compile(r"-?((?:\d{1,9}[wdhms])+)(?: +ago)?")
_PART: Final = re.compile(r"(\d+)([wdhms])")
_CLOCK: Final = re.compile(r"(\d\d?):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?Z?")
_MS: Final = 1_000_000
_POSITION_DIGITS_MAX: Final = 18
HEAD: Final = -1


class BadMoment(Rejected):
    """A text names no moment."""

    code = "history.bad_moment"

    def __init__(self, text: str, reason: str = "") -> None:
        self.text, self.reason = text, reason

    def __str__(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        return (
            f"{self.text!r} is no position and no time{reason}; write a position (1234), head, a time "
            "(2026-01-31T12:00:00Z, or 14:03 for today, UTC) or how long ago (2h, 90s, 1d12h)"
        )


def position_or_ns(text: str, now_ns: int) -> tuple[int | None, int]:
    """The position that the text names (HEAD: the last), or None and the time in UTC nanoseconds. Raises BadMoment."""
    wanted = text.strip()
    if wanted == "head":
        return HEAD, 0
    if wanted.isascii() and wanted.isdigit():
        if len(wanted) > _POSITION_DIGITS_MAX:
            raise BadMoment(text, "no log has so many events")
        return int(wanted), 0
    if ago := _AGO.fullmatch(wanted):
        seconds = sum(int(count) * _UNITS[unit] for count, unit in _PART.findall(ago[1]))
        return None, now_ns - seconds * _NS
    if clock := _CLOCK.fullmatch(wanted):
        return None, _today(text, clock, now_ns)
    return None, _rfc3339(text, wanted)


def end_of_ms(time_ns: int) -> int:
    """The end of that millisecond: times are shown to the millisecond, and what was recorded in it is meant too."""
    return time_ns // _MS * _MS + _MS - 1


def instant(time_ns: int) -> str:
    """UTC with milliseconds, `2026-01-31T12:00:00.123Z`."""
    seconds, rest = divmod(time_ns, _NS)
    try:
        shown = f"{datetime.fromtimestamp(seconds, tz=UTC):%Y-%m-%dT%H:%M:%S}"
    except (ValueError, OverflowError, OSError):  # before the year 1 or behind 9999
        return f"{seconds} s since 1970"
    return f"{shown}.{rest // 1_000_000:03d}Z"


def _today(text: str, clock: re.Match[str], now_ns: int) -> int:
    hour, minute, second = int(clock[1]), int(clock[2]), int(clock[3] or 0)
    try:
        today = datetime.fromtimestamp(now_ns // _NS, tz=UTC).replace(hour=hour, minute=minute, second=second)
    except ValueError as error:
        raise BadMoment(text, str(error)) from None
    return int(today.timestamp()) * _NS + int((clock[4] or "0").ljust(9, "0"))


def _rfc3339(text: str, wanted: str) -> int:
    try:
        at = datetime.fromisoformat(wanted)
    except ValueError as error:
        reason = str(error) if wanted[:1].isdigit() and "-" in wanted else ""
        raise BadMoment(text, reason) from None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    since = at - datetime.fromtimestamp(0, tz=UTC)
    return (since.days * 86_400 + since.seconds) * _NS + since.microseconds * 1000
