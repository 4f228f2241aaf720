"""Durations in words."""

from typing import Final

_UNITS: Final = ((3600, "h"), (60, "m"))
_NS: Final = 1_000_000_000


def duration(time_ns: int) -> str:
    """A duration as Go writes it: `1h0m5.25s`, `3ms`, `0s`."""
    if time_ns < _NS:
        for size, unit in ((1_000_000, "ms"), (1_000, "µs"), (1, "ns")):
            if time_ns >= size:
                return f"{_trimmed(time_ns, size)}{unit}"
        return "0s"
    text, rest = "", time_ns
    for seconds, unit in _UNITS:
        count, rest = divmod(rest, seconds * _NS)
        if count or text:
            text += f"{count}{unit}"
    return f"{text}{_trimmed(rest, _NS)}s"


def _trimmed(number: int, unit: int) -> str:
    whole, rest = divmod(number, unit)
    fraction = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)
