"""What every form of the matrix shares: a sheet for each kind of traffic, and the marks of its cells."""

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from cplane.k8s.matrix import Cell
    from cplane.k8s.ports import Asked


class Mark(NamedTuple):
    """How a cell is shown, in which colour of a terminal, and what it means."""

    sign: str
    colour: str
    meaning: str


MARKS: Final = {
    "allowed": Mark("✓", "green", "allowed"),
    "proxy": Mark("≈", "cyan", "a proxy judges each request"),
    "denied": Mark("✗", "red", "denied"),
    "mixed": Mark("±", "yellow", "only from or to the local host"),
    "audit": Mark("!", "magenta", "passes, and would be denied"),
    "none": Mark("·", "bright_black", "no such traffic, or not judged here"),
}


class Sheet(NamedTuple):
    """The matrix for one kind of traffic; cells row by row."""

    asked: "Asked"
    cells: "tuple[Cell | None, ...]"


def mark_of(cell: "Cell | None") -> str:
    """Which of the marks a cell has."""
    if cell is None:
        return "none"
    if cell.mixed:
        return "mixed"
    verdict = cell.answer.verdict.lower()
    return "proxy" if verdict == "allowed" and cell.answer.l7 else verdict
