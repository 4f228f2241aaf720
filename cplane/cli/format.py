"""Messages as tables, JSON and YAML."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final

_NS: Final = 1_000_000_000


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Left-aligned columns, two spaces apart, under upper-case headers; no trailing spaces."""
    cells = [
        [header.upper() for header in headers],
        *([printable(str(cell)) for cell in row] for row in rows),
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    return "\n".join(align(row, widths) for row in cells)


def align(cells: Sequence[str], widths: Sequence[int]) -> str:
    """One line of a table."""
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def pairs(rows: Iterable[tuple[str, object]]) -> str:
    """`name:  value` lines, the values below each other."""
    lines = [(f"{name}:", printable(str(value))) for name, value in rows]
    width = max((len(name) for name, _ in lines), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in lines)


def printable(text: str) -> str:
    """The text without characters that a terminal would act upon."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "�" for c in text)


def plain(value: object) -> object:
    """A message as JSON has it: fields by their names in the proto, enumerations as lower-case words."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name.rstrip("_"): plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not field.name.startswith("_")
        }
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, IntEnum):
        return (value.name or str(int(value))).lower()
    return value


def to_json(value: object, *, line: bool = False) -> str:
    """JSON for programs: indented, or on one line."""
    return json.dumps(plain(value), ensure_ascii=False, indent=None if line else 2)


def to_yaml(value: object) -> str:
    """YAML, in the order of the fields, without a final line break."""
    import yaml

    class Dumper(yaml.CSafeDumper):
        def ignore_aliases(self, data: object) -> bool:  # the library's signature
            return True  # whoever reads it should not have to look elsewhere

    text: str = yaml.dump(plain(value), Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return text.removesuffix("\n").removesuffix("\n...")


def counted(number: int, noun: str) -> str:
    """`1 policy`, `2 policies`."""
    plural = f"{noun.removesuffix('y')}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def instant(time_ns: int) -> str:
    """UTC with milliseconds, `2026-01-31T12:00:00.123Z`."""
    seconds, rest = divmod(time_ns, _NS)
    return f"{datetime.fromtimestamp(seconds, tz=UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03d}Z"


def duration(time_ns: int) -> str:
    """`3d4h5m6s`, without leading zeros."""
    seconds = time_ns // _NS
    text = ""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        count, seconds = divmod(seconds, size)
        if count or text:
            text += f"{count}{unit}"
    return f"{text}{seconds}s"
