"""A tally as a screen full of tables: as many rows as fit, and nothing in names that a terminal would act upon."""

from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cplane.hubble.cli.tally import Denial, Talk, Tally
from cplane.hubble.cli.terminal import escape

WIDTH: Final = 120  # where there is no terminal
ROWS: Final = 20  # of talkers, where there is none; of the others half of that
_HEAD: Final = 3  # lines: two of numbers and an empty one
_TITLE: Final = 3  # lines of a table besides its rows: title, names of columns, an empty one
_TABLES: Final = 4
_ROWS_MIN: Final = 1


def render(tally: Tally, server: str, height: int | None) -> RenderableType:
    """The numbers, in `height` lines at most; None: as many as it takes."""
    many, few = _rows(height)
    tables = [
        _table(
            "TOP TALKERS", ("CLIENT", "SERVER", "PORT", "FLOWS"), [(*_talk(one), n) for one, n in tally.talks.top(many)]
        ),
        _table(
            "DROPPED", ("CLIENT", "SERVER", "PORT", "FLOWS"), [(*_talk(one), n) for one, n in tally.dropped.top(few)]
        ),
        _table("DROPS BY REASON", ("REASON", "FLOWS"), [(reason, n) for reason, n in tally.reasons.top(few)]),
        _table(
            "DENIALS BY POLICY",
            ("POLICY", "DIRECTION", "FLOWS"),
            [(*_denial(one), n) for one, n in tally.denials.top(few)],
        ),
    ]
    return Group(*_head(tally, server), *tables)


def _rows(height: int | None) -> tuple[int, int]:
    """How many talkers, and how many of each of the rest."""
    if height is None:
        return ROWS, ROWS // 2
    left = height - _HEAD - _TITLE * _TABLES
    few = max(left // (_TABLES + 1), _ROWS_MIN)
    return max(left - few * (_TABLES - 1), _ROWS_MIN), few


def _head(tally: Tally, server: str) -> Sequence[Text]:
    rate = f"{tally.rate:,.1f} flows/s"
    verdicts = "  ".join(f"{name} {count:,}" for name, count in sorted(tally.verdicts.items())) or "no flows yet"
    first = Text.assemble(("hubble top", "bold"), f"  {rate}  {tally.flows:,} flows  ")
    first.append(f"{tally.lost:,} lost", "bold red" if tally.lost else "")
    first.append(f"  {escape(server)}")  # last, as it may be cut off
    return [_line(first), _line(Text(verdicts)), Text()]


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str | int]]) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_edge=False)
    for name in columns:
        table.add_column(
            Text(name, "dim"), justify="right" if name == "FLOWS" else "left", no_wrap=True, overflow="ellipsis"
        )
    for row in rows:
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else escape(cell)) for cell in row))
    return Group(Text(title, "bold"), table, Text())


def _talk(one: Talk) -> tuple[str, str, str]:
    return str(one.client), str(one.server), str(one.port)


def _denial(one: Denial) -> tuple[str, str]:
    return one.policy, one.direction


def text_of(tally: Tally, server: str, width: int = WIDTH) -> str:
    """The numbers as plain text."""
    console = Console(width=width, color_system=None, force_terminal=False, highlight=False, legacy_windows=False)
    with console.capture() as captured:
        console.print(render(tally, server, None))
    return "".join(f"{line.rstrip()}\n" for line in captured.get().rstrip().split("\n"))
