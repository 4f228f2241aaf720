"""Reading an untyped document strictly: every error is kept with its path, and reading goes on."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Final, NamedTuple, TypeVar

from cplane.errors import Rejected

ERRORS_MAX: Final = 1000  # of one document; those beyond are counted, not listed
SHOWN_MAX: Final = 80  # characters of a wrong value, or of a field's name, that an error quotes
_DECIMAL_BITS_MAX: Final = 1024
OBJECTS: Final = (dict, Mapping)
"""What is an object: what it nearly always is, is looked for first, in a fifth of the time."""

T = TypeVar("T")
Object = Mapping[str, object]


class FieldError(NamedTuple):
    """What is wrong at `path` (`spec.ingress[0].toPorts[1].ports[0].port`), and what to do."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class InvalidPolicy(Rejected):
    """A document cannot be enforced as it is written; `errors` has every reason, in the order of the document."""

    code = "policy.invalid"

    def __init__(self, errors: tuple[FieldError, ...]) -> None:
        self.errors = errors

    def __str__(self) -> str:
        return "; ".join(str(error) for error in self.errors)


class Fields(NamedTuple):
    """What may stand in an object: `known` is read; `unsupported` maps a field to why it is refused.

    `misplaced` maps a field of somewhere else to what to do about it.
    """

    known: frozenset[str]
    unsupported: Mapping[str, str] = {}
    misplaced: Mapping[str, str] = {}


class Place:
    """A value and where it stands. Its text is made only when an error needs it."""

    __slots__ = ("_parent", "_path", "_reader", "_step", "value")

    def __init__(self, reader: "Reader", value: object, parent: "Place | None", step: str | int) -> None:
        self._reader, self.value, self._parent, self._step = reader, value, parent, step
        self._path: str | None = None

    @property
    def path(self) -> str:
        """For example `spec.ingress[0].fromCIDR[1]`; for the document itself, empty."""
        if self._path is None:
            self._path = self._written()
        return self._path

    def _written(self) -> str:
        parent = self._parent.path if self._parent is not None else ""
        if isinstance(self._step, int):
            return f"{parent}[{self._step}]"
        step = self._step if len(self._step) <= SHOWN_MAX else f"{self._step[:SHOWN_MAX]}…"
        plain = step.replace("_", "").replace("-", "").isalnum()
        step = step if plain or not step else json.dumps(step, ensure_ascii=False)
        return f"{parent}.{step}" if parent else step

    def refuse(self, message: str) -> None:
        """The value is wrong, for this reason."""
        self._reader.add(FieldError(self.path or "document", message))

    def refuse_type(self, wanted: str) -> None:
        """The value is of a wrong type."""
        self.refuse(f"expected {wanted}, got {_described(self.value)}")

    def child(self, step: str | int, value: object) -> "Place":
        """A value inside this one."""
        return Place(self._reader, value, self, step)

    def fields(self, fields: Fields) -> dict[str, "Place"] | None:
        """The values of an object's fields, those that are null left out; None where it is no object.

        Fields that are not known or not supported are refused, each by its name.
        """
        if not isinstance(self.value, OBJECTS):
            self.refuse_type("an object")
            return None
        reader = self._reader
        if self.value.keys() <= fields.known:  # nearly always, and fast
            return {name: Place(reader, value, self, name) for name, value in self.value.items() if value is not None}
        found = {}
        for name, value in self.value.items():
            if not isinstance(name, str):
                self.refuse(f"field name {shown(name)} is not a string")
            elif name in fields.known:
                if value is not None:
                    found[name] = self.child(name, value)
            elif name in fields.unsupported:
                if value is not None:
                    self.child(name, value).refuse(fields.unsupported[name])
            else:
                self.child(name, value).refuse(_unknown(name, fields))
        return found

    def items(self) -> Iterator["Place"]:
        """The elements of a list; none where it is no list, which is refused."""
        if not isinstance(self.value, list | tuple):
            self.refuse_type("a list")
            return
        for index, value in enumerate(self.value):
            yield Place(self._reader, value, self, index)

    def entries(self) -> Iterator[tuple[str, "Place"]]:
        """The entries of an object with free names; none where it is no object, which is refused."""
        if not isinstance(self.value, OBJECTS):
            self.refuse_type("an object")
            return
        for name, value in self.value.items():
            if isinstance(name, str):
                yield name, Place(self._reader, value, self, name)
            else:
                self.refuse(f"field name {shown(name)} is not a string")

    def text(self) -> str | None:
        """A string; None where it is none, which is refused."""
        if isinstance(self.value, str):
            return self.value
        advice = ""
        if isinstance(self.value, bool | float):  # of `yes`, `on` and 1.10 there is no more than this
            advice = "; write it in quotes, as it is meant"
        elif isinstance(self.value, int):
            advice = f'; write "{shown(self.value)}"'
        self.refuse(f"expected a string, got {_described(self.value)}{advice}")
        return None

    def boolean(self) -> bool | None:
        """A boolean; None where it is none, which is refused."""
        if isinstance(self.value, bool):
            return self.value
        self.refuse_type("true or false")
        return None

    def integer(self, low: int, high: int) -> int | None:
        """An integer from `low` to `high`; None where it is none, which is refused."""
        if isinstance(self.value, int) and not isinstance(self.value, bool) and low <= self.value <= high:
            return self.value
        self.refuse_type(f"an integer from {low} to {high}")
        return None


class Reader:
    """Collects the errors of one document."""

    def __init__(self) -> None:
        self._errors: list[FieldError] = []
        self._more = 0

    def root(self, document: object) -> Place:
        """The document itself."""
        return Place(self, document, None, "")

    def add(self, error: FieldError) -> None:
        """Keeps the error, or counts it where there are too many."""
        if len(self._errors) < ERRORS_MAX:
            self._errors.append(error)
        else:
            self._more += 1

    def result(self, make: Callable[[], T]) -> T:
        """What `make` returns. Raises InvalidPolicy where anything was refused."""
        if self._more:
            self._errors.append(FieldError("document", f"{self._more} more errors are not listed"))
            self._more = 0
        if self._errors:
            raise InvalidPolicy(tuple(self._errors))
        return make()


def required_text(place: Place, fields: dict[str, Place], name: str, advice: str) -> str | None:
    """The string of a field that must be there; None where it is not, which is refused."""
    if name not in fields:
        place.refuse(f"{name} is missing: {advice}")
        return None
    text = fields[name].text()
    if text == "":
        fields[name].refuse(f"empty: {advice}")
        return None
    return text


def shown(value: object) -> str:
    """The value as an error quotes it: short, and on one line."""
    if isinstance(value, Mapping | list | tuple):
        return f"with {len(value)} entries"
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, int) and value.bit_length() > _DECIMAL_BITS_MAX:
        text = hex(value)  # Python refuses to write the decimal digits of a number without bound
    else:
        text = repr(value[: SHOWN_MAX + 1] if isinstance(value, str) else value)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"


def did_you_mean(name: str, candidates: Collection[str]) -> str:
    """`; did you mean 'x'?` where a candidate is near."""
    by_lower = {candidate.lower(): candidate for candidate in sorted(candidates)}
    near = get_close_matches(name[:SHOWN_MAX].lower(), by_lower, n=1)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""


def _unknown(name: str, fields: Fields) -> str:
    advice = fields.misplaced.get(name, "")
    told = f"; {advice}" if advice else did_you_mean(name, (*fields.known, *fields.unsupported))
    return f"unknown field{told}"


def _described(value: object) -> str:
    """What kind of value it is, and which; of null there is no more to say."""
    return _kind(value) if value is None else f"{_kind(value)} {shown(value)}"


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case Mapping():
            return "object"
        case list() | tuple():
            return "list"
        case _:
            return type(value).__name__
