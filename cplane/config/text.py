"""Strict reading of YAML and JSON that people wrote, within bounds.

Refused: duplicate keys, keys that are not text, tags, values that JSON does not have, and texts whose size, depth
or expansion (aliases count as often as they are used) is out of proportion. Dates stay text, and so do base-60
numbers such as `12:30`, which YAML 1.1 would turn into 750.
"""

import json
import math
from typing import Final, NamedTuple, NoReturn

from cplane.config.plain import read_plain
from cplane.config.problems import Audit, BadText, Bounds, Document, Problem, Value, distinct, join
from cplane.config.yaml import read_yaml


def read(data: bytes, bounds: Bounds = Bounds()) -> tuple[Document, ...]:  # noqa: B008  # frozen
    """The documents of a text; those without content are left out, and counted. Raises BadText."""
    text = _decode(data, bounds)
    if text.lstrip()[:1] in {"{", "["}:
        document = _read_json(text, bounds)
        if document is not None:
            return (document,)
    documents = read_plain(text, bounds)
    return read_yaml(text, bounds) if documents is None else documents


def _decode(data: bytes, bounds: Bounds) -> str:
    if len(data) > bounds.bytes:
        raise BadText((Problem(0, "", f"{len(data)} bytes are too many, the limit is {bounds.bytes}: split it"),))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"not UTF-8: byte {error.start} is 0x{data[error.start]:02x}; save the text as UTF-8"
        raise BadText((Problem(0, "", message),)) from None


_SURROGATE: Final = "\\ud"  # begins the escape of half of a pair


class _Pairs(NamedTuple):
    """A JSON object before it is known to have each key once."""

    pairs: list[tuple[str, Value]]


def _read_json(text: str, bounds: Bounds) -> Document | None:
    """The one document that the text is as JSON; None: it is none."""
    if (sound := _Sound(bounds).read(text)) is not None:
        return Document(1, sound)
    try:
        raw = json.loads(text, object_pairs_hook=_Pairs, parse_constant=_no_constant)
    except ValueError:
        return None
    except RecursionError:
        raise BadText((Problem(1, "", f"nested deeper than {bounds.depth} levels"),)) from None
    audit = Audit(bounds)
    value = _from_json(raw, "", 1, audit)
    if audit.problems:
        raise BadText(tuple(audit.problems))
    return Document(1, value)


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
        return value if self._is_shallow(value, 1) else None

    def _is_shallow(self, value: Value, depth: int) -> bool:
        if isinstance(value, dict):
            value = value.values()
        elif not isinstance(value, list):
            return depth <= self._bounds.depth
        return depth <= self._bounds.depth and all(self._is_shallow(one, depth + 1) for one in value)


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
