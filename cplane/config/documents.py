"""A text of YAML or JSON → the objects in it, each as canonical JSON, with where it stood."""

import json
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

from cplane.config.lists import listed, other_form
from cplane.config.problems import Document, Problem
from cplane.config.text import read
from cplane.errors import Rejected

_ITSELF: Final = "document"  # what the policy language calls a document as a whole
_canonical: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
_WANTED: Final = "an object (a mapping with kind and metadata) is wanted"


class Invalid(Protocol):
    """What is wrong with documents, whoever says so; `cplane.deciders.policy.InvalidDocuments` fits."""

    @property
    def errors(self) -> tuple[tuple[int, str, str], ...]:
        """Of each mistake: which document (from 0), the path within it, and a message."""
        ...

    @property
    def code(self) -> str:
        """The stable word for it."""
        ...


class BadDocuments(Rejected):
    """Objects in a text cannot be taken; `errors` says which and why, by document number and path."""

    code = "documents.bad"

    def __init__(self, errors: tuple[Problem, ...], code: str = code) -> None:
        self.errors, self.code = errors, code

    def __str__(self) -> str:
        return "; ".join(map(str, self.errors))


class Object(NamedTuple):
    """One object: its canonical JSON, and where in the text it stood."""

    text: str
    value: dict[str, object]
    document: int
    path: str  # `items[2]` within a list, otherwise empty

    def problem(self, path: str, message: str) -> Problem:
        """An error in this object, as a place in the text that the user wrote."""
        inner = f"{self.path}.{path}" if self.path and path else self.path or path
        return Problem(self.document, inner, message)

    def name(self) -> tuple[str, str, str]:
        """Kind, namespace and name as they are written; empty where they are not."""
        metadata = self.value.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        return (
            str(self.value.get("kind", "")),
            str(metadata.get("namespace") or ""),
            str(metadata.get("name") or ""),
        )


def read_objects(data: bytes) -> tuple[Object, ...]:
    """The objects of a text, those of lists one by one, in order.

    Raises BadText when it is not YAML or JSON, and BadDocuments when a document is no object, two objects
    have one name, or there is none at all.
    """
    problems: list[Problem] = []
    objects = [one for document in read(data) for one in _objects(document, problems)]
    problems.extend(_twice(objects))
    if not objects and not problems:
        problems.append(Problem(0, "", "the text has no object"))
    if problems:
        raise BadDocuments(tuple(problems))
    return tuple(objects)


def located(invalid: Invalid, objects: tuple[Object, ...]) -> BadDocuments:
    """What somebody found wrong with the objects, at their places in the text that they came from."""
    errors = tuple(
        objects[index].problem("" if path == _ITSELF else path, message) for index, path, message in invalid.errors
    )
    return BadDocuments(errors, invalid.code)


def _objects(document: Document, problems: list[Problem]) -> Iterator[Object]:
    for path, value in listed(document.value):
        if isinstance(value, dict):
            yield _object(value, document.number, path)
        else:
            problems.append(Problem(document.number, path, other_form(value) or _WANTED))


def _object(value: dict[str, object], document: int, path: str) -> Object:
    return Object(_canonical(value), value, document, path)


def _twice(objects: list[Object]) -> Iterator[Problem]:
    """A problem for every object whose name an earlier one has; objects without a name fail elsewhere."""
    first: dict[tuple[str, str, str], Object] = {}
    for one in objects:
        name = one.name()
        if not name[2]:
            continue
        earlier = first.setdefault(name, one)
        if earlier is not one:
            kind, namespace, plain = name
            full = f"{kind} {namespace}/{plain}" if namespace else f"{kind} {plain}"
            where = f"document {earlier.document}" + (f", {earlier.path}" if earlier.path else "")
            yield one.problem("metadata.name", f"{full} stands in {where} already: keep one of them")
