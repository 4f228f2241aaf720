"""Texts → the objects in them, those of lists one by one, each with where it stands."""

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, NamedTuple

from cplane.config.lists import listed, other_form
from cplane.config.problems import BadText, Bounds, Document
from cplane.config.text import read
from cplane.domain.policy.document import OBJECTS, FieldError, Place, Reader, shown

DEFAULT_NAMESPACE: Final = "default"
CLUSTER_WIDE: Final = frozenset(
    {"Namespace", "Node", "CiliumClusterwideNetworkPolicy", "CiliumCIDRGroup", "PersistentVolume", "StorageClass"}
)
WHOLE: Final = "document"  # what the policy language calls a document as a whole
_TYPING_ERROR: Final = 0.9
_KUBERNETES_FIELDS: Final = frozenset({"apiVersion", "kind", "metadata", "spec", "specs"})
_WANTED: Final = "an object is wanted: write a mapping with apiVersion, kind and metadata"
_ADVICE: Final = re.compile(
    r"(?:;|:) (?=did you mean|write |use |keep |remove |render |split |name |list |put |leave |change |set |give |add )"
)


class Finding(NamedTuple):
    """What is to be said of a place in a text; `document` counts from 1, 0 is the text as a whole."""

    file: str
    document: int
    path: str
    message: str

    def __str__(self) -> str:
        where = [
            self.file,
            *([f"document {self.document}"] if self.document else []),
            *([self.path] if self.path else []),
        ]
        return f"{', '.join(where)}: {self.message}"

    def parts(self) -> tuple[str, str]:
        """What is wrong, and what to do about it; the latter is empty where the message does not say."""
        found = _ADVICE.search(self.message)
        return (self.message[: found.start()], self.message[found.end() :]) if found else (self.message, "")


class Source(NamedTuple):
    """A text and what it is called."""

    name: str
    data: bytes


class Object(NamedTuple):
    """An object and where it stands: `path` is `items[2]` in a list, otherwise empty."""

    file: str
    document: int
    path: str
    value: Mapping[str, object]

    @property
    def kind(self) -> str:
        """As it is written; empty where it is not."""
        kind = self.value.get("kind")
        return kind if isinstance(kind, str) else ""

    @property
    def group(self) -> str:
        """The API group of its version, such as `apps`; empty for that of Pods, and where it is not written."""
        version = self.value.get("apiVersion")
        return version.rpartition("/")[0] if isinstance(version, str) else ""

    @property
    def kind_text(self) -> str:
        """The kind, with its version where another group may have the same kind."""
        version = self.value.get("apiVersion")
        if not self.kind:
            return "not of Kubernetes"
        return f"{self.kind} ({version})" if isinstance(version, str) and "/" in version else self.kind

    @property
    def name(self) -> str:
        """As it is written; empty where it is not."""
        return self._metadata("name")

    @property
    def namespace(self) -> str:
        """The one that it is in; empty for what is in none."""
        return "" if self.kind in CLUSTER_WIDE else self._metadata("namespace") or DEFAULT_NAMESPACE

    @property
    def is_kubernetes(self) -> bool:
        """Whether it looks like an object of Kubernetes at all."""
        return not _KUBERNETES_FIELDS.isdisjoint(self.value)

    def finding(self, path: str, message: str) -> Finding:
        """Something to be said of a place in this object."""
        inner = f"{self.path}.{path}" if self.path and path else self.path or path
        return Finding(self.file, self.document, inner, message)

    def findings(self, errors: Iterable[FieldError]) -> Iterator[Finding]:
        """Errors of the object, as places in the text."""
        for path, message in errors:
            yield self.finding("" if path == WHOLE else path, message)

    def read(self) -> tuple[Reader, Place]:
        """For reading it field by field: who keeps the errors, and where to begin."""
        reader = Reader()
        return reader, reader.root(self.value)

    def _metadata(self, field: str) -> str:
        metadata = self.value.get("metadata")
        text = metadata.get(field) if isinstance(metadata, OBJECTS) else None
        return text if isinstance(text, str) else ""

    def __str__(self) -> str:
        namespace = self.namespace
        return f"{self.kind} {namespace}/{self.name}" if namespace else f"{self.kind} {self.name}"


def read_objects(
    sources: Iterable[Source],
    bounds: Bounds = Bounds(),  # noqa: B008  # frozen
) -> tuple[tuple[Object, ...], tuple[Finding, ...]]:
    """All objects of the texts, in order, and what is wrong with the texts; a text that cannot be read has none."""
    objects: list[Object] = []
    wrong: list[Finding] = []
    for source in sources:
        try:
            documents = read(source.data, bounds)
        except BadText as bad:
            wrong.extend(Finding(source.name, *problem) for problem in bad.errors)
            continue
        for document in documents:
            _flatten(source.name, document, objects, wrong)
    return tuple(objects), tuple(wrong)


@lru_cache(maxsize=256)
def is_slip(kind: str, kinds: tuple[str, ...]) -> bool:
    """Whether a kind is so much like one of these, or like several of one, that it is meant to be it."""
    written = kind.lower()
    single = f"{written[:-3]}y" if written.endswith("ies") else written.removesuffix("s")
    return any(
        SequenceMatcher(None, form, one.lower()).ratio() > _TYPING_ERROR for one in kinds for form in (written, single)
    )


def stands_twice(one: Object, seen: dict[str, Object]) -> Finding | None:
    """What is to be said of an object whose kind and name another one has; `seen` are those before it."""
    earlier = seen.setdefault(str(one), one) if one.name else one
    if earlier is one:
        return None
    where = ", ".join((earlier.file, f"document {earlier.document}", *([earlier.path] if earlier.path else [])))
    return one.finding("metadata.name", f"{one} stands in {where} already: keep one of them")


def _flatten(file: str, document: Document, objects: list[Object], wrong: list[Finding]) -> None:
    for path, value in listed(document.value):
        other = other_form(value)
        if not other and isinstance(value, list) and not path:
            value = {}  # such as a file of tests: nothing of Kubernetes, as is an object without its fields
        if isinstance(value, Mapping) and not other:
            objects.append(Object(file, document.number, path, value))
        else:
            wrong.append(Finding(file, document.number, path, other or _WANTED))


def field(place: Place | None, *steps: str) -> Place | None:
    """The value behind these fields; None where one of them is not there or null. What is no object is refused."""
    for step in steps:
        if place is None:
            return None
        if not isinstance(place.value, OBJECTS):
            place.refuse_type("an object")
            return None
        value = place.value.get(step)
        place = place.child(step, value) if value is not None else None
    return place


def items(place: Place | None) -> Iterator[Place]:
    """The elements of a list that may not be there."""
    return iter(()) if place is None else place.items()


def text(place: Place | None, default: str = "") -> str:
    """A string that may not be there."""
    return default if place is None else place.text() or default


def number(place: Place | None, low: int, high: int, default: int = 0) -> int:
    """An integer that may not be there."""
    found = None if place is None else place.integer(low, high)
    return default if found is None else found


def flag(place: Place | None, *, default: bool) -> bool:
    """A boolean that may not be there."""
    found = None if place is None else place.boolean()
    return default if found is None else found


def texts(place: Place | None) -> dict[str, str]:
    """Labels, or another object of strings, that may not be there."""
    if place is None:
        return {}
    return {name: value for name, one in place.entries() if (value := one.text()) is not None}


def address(place: Place | None) -> str:
    """An IP address in its shortest form; empty where there is none. What is none, or has a zone, is refused."""
    written = text(place)
    if not written or place is None:
        return ""
    try:
        found = ip_address(written)
    except ValueError:
        place.refuse(f"{shown(written)} is not an IP address")
        return ""
    if "%" in written:
        place.refuse(f"{shown(written)} has a zone, which means nothing elsewhere: write the address alone")
        return ""
    return str(found)
