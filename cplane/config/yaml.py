"""YAML → plain values, from libyaml's events: its own composer recurses, and loses paths and duplicate keys."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import yaml
from yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
)
from yaml.nodes import ScalarNode

from cplane.config.problems import Audit, BadText, Bounds, Document, Problem, Value, brief, join

_TAG: Final = "tag:yaml.org,2002:"
_NUMBER_DIGITS_MAX: Final = 100


def read_yaml(text: str, bounds: Bounds) -> tuple[Document, ...]:
    """The documents of a text that have content, numbered from 1. Raises BadText."""
    audit = Audit(bounds)
    documents: list[Document] = []
    loader = yaml.CSafeLoader(text)
    try:
        while loader.check_event():
            event = loader.get_event()
            if not isinstance(event, DocumentStartEvent):
                continue
            if audit.document > bounds.documents:
                audit.stop("", f"more than {bounds.documents} documents: split the text")
            value = _Builder(loader, audit).build()
            if value is not None:
                documents.append(Document(audit.document, value))
            audit.document += 1
    except yaml.YAMLError as error:
        audit.problems.append(Problem(audit.document, *_syntax(error)))
    finally:
        loader.dispose()
    if audit.problems:
        raise BadText(tuple(audit.problems))
    return tuple(documents)


def _syntax(error: yaml.YAMLError) -> tuple[str, str]:
    """Place and message of an error of libyaml."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        message = error.problem or "not YAML"
        if "cannot start any token" in message or "tab" in message:
            message += " (a tab or a reserved character; indent with spaces, quote the value)"
        context = f"{error.context}: " if error.context else ""
        return f"line {mark.line + 1} column {mark.column + 1}", f"{context}{message}"
    return "", " ".join(str(error).split())


@dataclass(slots=True)
class _Open:
    """A collection that is being read. `key` is what the next value of a mapping belongs to."""

    value: list[Value] | dict[str, Value]
    anchor: str | None
    key: str | None = None
    at_key: bool = True
    merge: list[Value] = field(default_factory=list)
    size: int = 1
    height: int = 1

    @property
    def is_at_key(self) -> bool:
        """Whether a key comes next."""
        return self.at_key and isinstance(self.value, dict)


class _Kept(NamedTuple):
    """What an anchor stands for; how many values that is, and how deep they nest."""

    value: Value
    size: int
    height: int


_MERGE: Final = object()


class _Builder:
    """One document, from its events."""

    def __init__(self, loader: yaml.CSafeLoader, audit: Audit) -> None:
        self._loader, self._audit = loader, audit
        self._stack: list[_Open] = []
        self._anchors: dict[str, _Kept] = {}
        self._root: Value = None

    def build(self) -> Value:
        """The document's value; its events up to the end have been taken. Raises BadText and YAMLError."""
        for event in self._events():
            if isinstance(event, CollectionStartEvent):
                self._open(event)
            elif isinstance(event, ScalarEvent):
                self._scalar(event)
            elif isinstance(event, AliasEvent):
                self._alias(event.anchor or "")
            else:
                self._close(sequence=isinstance(event, SequenceEndEvent))
        return self._root

    def _events(self) -> Iterator[Event]:
        while (event := self._loader.get_event()) is not None and not isinstance(event, DocumentEndEvent):
            yield event

    def _open(self, event: CollectionStartEvent) -> None:
        mapping = isinstance(event, MappingStartEvent)
        if event.tag not in {None, "!", _TAG + ("map" if mapping else "seq")}:
            self._audit.add(self._path(), f"the tag {brief(event.tag or '')!r} is not allowed")
        self._audit.grow(1, len(self._stack) + 1, self._path)
        self._stack.append(_Open({} if mapping else [], event.anchor))

    def _close(self, *, sequence: bool) -> None:
        done = self._stack.pop()
        if not sequence:
            assert isinstance(done.value, dict)
            self._merge(done, done.value)
        self._place(_Kept(done.value, done.size, done.height), done.anchor)

    def _scalar(self, event: ScalarEvent) -> None:
        self._audit.grow(1, len(self._stack) + 1, self._path)
        self._place(_Kept(self._resolve(event), 1, 1), event.anchor)

    def _alias(self, name: str) -> None:
        kept = self._anchors.get(name)
        if kept is None:
            self._audit.add(self._path(), f"the alias *{brief(name)} stands for nothing that is complete before it")
            kept = _Kept(None, 1, 1)
        self._audit.grow(kept.size, len(self._stack) + kept.height, self._path)
        self._place(kept, None)

    def _place(self, kept: _Kept, anchor: str | None) -> None:
        """A complete value goes where it belongs."""
        if anchor is not None:
            self._anchors[anchor] = kept
        if not self._stack:
            self._root = kept.value
            return
        parent = self._stack[-1]
        parent.size += kept.size
        parent.height = max(parent.height, kept.height + 1)
        if isinstance(parent.value, list):
            parent.value.append(kept.value)
        elif parent.at_key:
            self._key(parent, parent.value, kept.value)
        else:
            if parent.key is None:
                parent.merge.append(kept.value)
            else:
                parent.value[parent.key] = kept.value
            parent.key, parent.at_key = None, True

    def _key(self, parent: _Open, mapping: dict[str, Value], key: Value) -> None:
        parent.at_key = False
        if key is _MERGE:
            return
        if not isinstance(key, str):
            shown = json.dumps(key) if not isinstance(key, list | dict) else "a collection"
            told = f"the key {shown}" if shown != "a collection" else "a key that is a collection"
            self._audit.add(self._path(), f"{told} is not text: write it in quotes")
            key = f"<{shown}>"
        parent.key = key
        if key in mapping:
            self._audit.add(self._path(), "the key stands there twice")

    def _merge(self, done: _Open, mapping: dict[str, Value]) -> None:
        """`<<: *other` adds the keys that are not there, an earlier merge before a later one."""
        for source in done.merge:
            for one in source if isinstance(source, list) else [source]:
                if not isinstance(one, dict):
                    self._audit.add(self._path(), "`<<` takes a mapping or a list of mappings")
                    continue
                for key, value in one.items():
                    mapping.setdefault(key, value)

    def _resolve(self, event: ScalarEvent) -> Value:
        plain, _ = event.implicit
        tag = event.tag
        if tag is None:
            tag = self._implicit(event.value) if plain else f"{_TAG}str"
        if tag == f"{_TAG}merge" and self._stack and self._stack[-1].is_at_key:
            return _MERGE
        try:
            value = convert(tag, event.value)
        except ValueError as error:
            self._audit.add(self._path(), str(error))
            return None
        return self._audit.text(value, self._path()) if isinstance(value, str) else value

    def _implicit(self, text: str) -> str:
        resolved = self._loader.resolve(ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # PyYAML
        return str(resolved)

    def _path(self) -> str:
        path = ""
        for part in self._stack:
            if isinstance(part.value, list):
                path = join(path, len(part.value))
            elif part.key is not None:
                path = join(path, part.key)
        return path


def convert(tag: str, text: str) -> Value:
    """What a scalar with this tag is. Raises ValueError with what is wrong."""
    function = _CONVERT.get(tag)
    if function is None:
        raise ValueError(f"the tag {brief(tag)!r} is not allowed")
    return function(text)


def _null(_text: str) -> None:
    """YAML's null."""


def _bool(text: str) -> bool:
    known = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}
    if text.lower() not in known:
        raise ValueError(f"{brief(text)!r} is neither true nor false")
    return known[text.lower()]


def _int(text: str) -> int | str:
    if ":" in text:
        return text
    if len(text) > _NUMBER_DIGITS_MAX:
        raise ValueError("the number is too large")
    digits = text.replace("_", "")
    sign, magnitude = (-1, digits[1:]) if digits[:1] == "-" else (1, digits.removeprefix("+"))
    prefix = magnitude[:2].lower()
    if prefix in {"0b", "0x", "0o"}:
        return sign * int(magnitude[2:], {"0b": 2, "0x": 16, "0o": 8}[prefix])
    return sign * int(magnitude, 8 if len(magnitude) > 1 and magnitude[0] == "0" else 10)


def _float(text: str) -> float | str:
    if ":" in text:
        return text
    try:
        value = float(text.replace("_", ""))
    except ValueError:
        value = math.nan  # .inf and .nan, as YAML writes them
    if not math.isfinite(value):
        raise ValueError(f"{brief(text)} is not a number that JSON has")
    return value


_CONVERT: Final[dict[str, Callable[[str], Value]]] = {
    f"{_TAG}null": _null,
    f"{_TAG}bool": _bool,
    f"{_TAG}int": _int,
    f"{_TAG}float": _float,
    f"{_TAG}str": str,
    f"{_TAG}timestamp": str,
    f"{_TAG}value": str,
    f"{_TAG}merge": str,
    "!": str,
}
