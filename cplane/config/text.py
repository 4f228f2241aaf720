"""Strict reading of YAML and JSON that people wrote, within bounds.

Refused: duplicate keys, keys that are not text, tags, values that JSON does not have, and texts whose size, depth
or expansion (aliases count as often as they are used) is out of proportion. Dates stay text, and so do base-60
numbers such as `12:30`, which YAML 1.1 would turn into 750.
"""

import json
import math
import re
from collections.abc import Collection
from typing import Final, NamedTuple, NoReturn

from cplane.config.plain import read_plain
from cplane.config.problems import Audit, BadText, Bounds, Document, Problem, Value, distinct, join
from cplane.config.template import template_problem
from cplane.config.yaml import read_yaml


def read(data: bytes, bounds: Bounds = Bounds()) -> tuple[Document, ...]:  # noqa: B008  # frozen
    """The documents of a text; those without content are left out, and counted. Raises BadText.

    What begins as JSON may be several values, one after the other, as `kubectl get -o json` and jq write them.
    """
    text = _decode(data, bounds)
    if text.lstrip()[:1] in {"{", "["}:
        found = _read_json(text, bounds)
        if found is not None:
            return found
    documents = read_plain(text, bounds)
    if documents is not None:
        return documents
    try:
        return read_yaml(text, bounds)
    except BadText as bad:
        template = template_problem(text, bad.errors)
        if template is None:
            raise
        raise BadText((template, *bad.errors)) from None


def _decode(data: bytes, bounds: Bounds) -> str:
    if len(data) > bounds.bytes:
        raise BadText((Problem(0, "", f"{len(data)} bytes are too many, the limit is {bounds.bytes}: split it"),))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"not UTF-8: byte {error.start} is 0x{data[error.start]:02x}; save the text as UTF-8"
        raise BadText((Problem(0, "", message),)) from None


_SURROGATE: Final = "\\ud"  # begins the escape of half of a pair
_SPACE: Final = re.compile(r"[ \t\n\r]*")  # of JSON


class _Pairs(NamedTuple):
    """A JSON object before it is known to have each key once."""

    pairs: list[tuple[str, Value]]


def _read_json(text: str, bounds: Bounds) -> tuple[Document, ...] | None:
    """The values that the text is as JSON, in order; None: it is none."""
    if (sound := _Sound(bounds).read(text)) is not None:
        return (Document(1, sound),)
    audit = Audit(bounds)
    decoder = json.JSONDecoder(object_pairs_hook=_Pairs, parse_constant=_no_constant)
    documents = []
    at = _after_space(text, 0)
    while at < len(text):
        if audit.document > bounds.documents:
            audit.stop("", f"more than {bounds.documents} documents: split the text")
        try:
            raw, end = decoder.raw_decode(text, at)
        except ValueError:
            return None
        except RecursionError:
            problem = Problem(audit.document, "", f"nested deeper than {bounds.depth} levels")
            raise BadText((problem,)) from None
        value = _from_json(raw, "", 1, audit)
        if value is not None:
            documents.append(Document(audit.document, value))
        audit.document += 1
        at = _after_space(text, end)
    if audit.problems:
        raise BadText(tuple(audit.problems))
    return tuple(documents)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None, "it may be empty"
    return found.end()


class _Sound:
    """Reads JSON that there is nothing to say about, in a fifth of the time; whatever is left, is read with paths."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds

    def read(self, text: str) -> Value:
        """The value; None when it is not JSON, is `null`, or something of it may have to be refused."""
        if text.count(",") + text.count("[") + text.count("{") >= self._bounds.values or _SURROGATE in text.lower():
            return None
        try:
            value = json.loads(text, object_pairs_hook=distinct, parse_constant=_no_constant, parse_float=_finite)
        except (ValueError, RecursionError):
            return None
        return value if self._is_shallow(value) else None

    def _is_shallow(self, value: Value) -> bool:
        level = [value]
        for _ in range(self._bounds.depth):
            level = [one for held in level if isinstance(held, dict | list) for one in _within(held)]
            if not level:
                return True
        return False


def _within(held: dict[str, Value] | list[Value]) -> Collection[Value]:
    return held.values() if isinstance(held, dict) else held


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("the number is too large")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _from_json(raw: Value, path: str, depth: int, audit: Audit) -> Value:
    audit.grow(1, depth, lambda: path)
    if isinstance(raw, _Pairs):
        made: dict[str, Value] = {}
        for key, value in raw.pairs:
            inner = join(path, audit.text(key, path))
            if key in made:
                audit.add(inner, "the key stands there twice")
            made[key] = _from_json(value, inner, depth + 1, audit)
        return made
    if isinstance(raw, list):
        return [_from_json(value, join(path, i), depth + 1, audit) for i, value in enumerate(raw)]
    if isinstance(raw, str):
        return audit.text(raw, path)
    if isinstance(raw, float) and not math.isfinite(raw):
        audit.add(path, "the number is too large")
    return raw
