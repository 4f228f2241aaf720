"""What can be wrong with a text, and the counting and collecting of it while the text is read."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn

from cplane.errors import Rejected

Value = object  # None, bool, int, float, str, list of values, dict of str to value

_ERRORS_MAX: Final = 1000
_QUOTED_MAX: Final = 80  # characters of a key or value
_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][\w-]*")


class Problem(NamedTuple):
    """What is wrong with a text: in which document (from 1; 0: in the text as a whole), and where in it."""

    document: int
    path: str
    message: str

    def __str__(self) -> str:
        where = [f"document {self.document}"] if self.document else []
        where += [self.path] if self.path else []
        return f"{', '.join(where)}: {self.message}" if where else self.message


class BadText(Rejected):
    """A text is not acceptable YAML or JSON; `errors` has everything that was found."""

    code = "text.bad"

    def __init__(self, errors: tuple[Problem, ...]) -> None:
        self.errors = errors

    def __str__(self) -> str:
        return "; ".join(map(str, self.errors))


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much text is too much. `values` counts scalars and collections after the expansion of aliases."""

    bytes: int = 10_000_000
    values: int = 1_000_000
    depth: int = 64
    documents: int = 10_000


class Document(NamedTuple):
    """One document of a text and its number in it, from 1."""

    number: int
    value: Value


def brief(text: str) -> str:
    """As much of the text as a problem quotes."""
    return text if len(text) <= _QUOTED_MAX else f"{text[:_QUOTED_MAX]}…"


def join(path: str, step: str | int) -> str:
    """`spec.egress[0]`: the path one step deeper; keys that need it stand in quotes."""
    if isinstance(step, int):
        return f"{path}[{step}]"
    step = brief(step)
    key = step if _PLAIN_KEY.fullmatch(step) else json.dumps(step, ensure_ascii=False)
    return f"{path}.{key}" if path else key


def distinct(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    """The object with these entries. Raises ValueError where a key stands there twice."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands there twice")
    return made


class Audit:
    """Counts values and collects problems of one text."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds, self.count, self.document = bounds, 0, 1
        self.problems: list[Problem] = []

    def add(self, path: str, message: str) -> None:
        """One more problem; too many end the reading."""
        self.problems.append(Problem(self.document, path, message))
        if len(self.problems) >= _ERRORS_MAX:
            self.stop(path, "too many errors; the rest was not read")

    def stop(self, path: str, message: str) -> NoReturn:
        """A problem after which reading on makes no sense."""
        self.problems.append(Problem(self.document, path, message))
        raise BadText(tuple(self.problems))

    def grow(self, size: int, depth: int, where: Callable[[], str]) -> None:
        """That many more values, and the deepest of them so deep."""
        self.count += size
        if self.count > self.bounds.values:
            self.stop(where(), f"more than {self.bounds.values} values, aliases counted as often as they are used")
        if depth > self.bounds.depth:
            self.stop(where(), f"nested deeper than {self.bounds.depth} levels")

    def text(self, value: str, path: str) -> str:
        """The text, if it is Unicode; a lone surrogate is not."""
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                self.add(path, "the text holds half of a surrogate pair")
                return ""
        return value
