"""A text of YAML or JSON → the objects in it, each as canonical JSON, with where it stood."""

import json
from collections.abc import Iterator
from typing import NamedTuple

from cplane.api.errors import BadDocuments
from cplane.config.problems import Document, Problem, join
from cplane.config.text import read


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


def _objects(document: Document, problems: list[Problem]) -> Iterator[Object]:
    value = document.value
    if not isinstance(value, dict):
        problems.append(Problem(document.number, "", "an object (a mapping with kind and metadata) is wanted"))
        return
    items = value.get("items")
    kind = value.get("kind")
    if not (isinstance(kind, str) and kind.endswith("List") and isinstance(items, list)):
        yield _object(value, document.number, "")
        return
    for index, item in enumerate(items):
        path = join("items", index)
        if isinstance(item, dict):
            yield _object(item, document.number, path)
        else:
            problems.append(Problem(document.number, path, "an object is wanted"))


def _object(value: dict[str, object], document: int, path: str) -> Object:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return Object(text, value, document, path)


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
