"""Plain documents that differ in their values only: the second of them is read, and those after it are filled in.

A program writes a thousand documents by one pattern. What is left of a document without its values says which keys it
has, in which order and how they nest; so where that is known already, the document is JSON as soon as its values are.
"""

import json
import re
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from cplane.config.problems import Value

# What stands before a value in its line, and the value; see `plain._LINE`.
_VALUE: Final = re.compile(
    r"^( *+(?:- ++)?(?:[A-Za-z0-9_./-]++: ++|(?<=- )(?![A-Za-z0-9_./-]++:(?: |$))))(.++)$", re.MULTILINE
)
_STANDS_FOR: Final = "\u00a7"  # no key has this sign
_PLACE: Final = re.compile(f'"{_STANDS_FOR}(\\d+)"')
_MORE: Final = "[{|"  # begin what may be more than one value, or go on in the next lines
# Most values by far: names, and addresses, of which none can be read as anything but text.
_TEXT: Final = re.compile(r"[A-EG-MP-SU-XZa-eg-mp-su-xz_/][A-Za-z0-9_./-]*+|[0-9]++\.[0-9]++\.[0-9./]++")
_json: Final = json.JSONEncoder(ensure_ascii=False).encode
_VALUES_MAX: Final = 10_000  # of a document; larger ones are seldom alike
_DEPTH_SPARE: Final = 2  # an empty collection may be a value

Read = Callable[[str], Value]
"""The value of a document, or of a scalar."""


class _Pattern(NamedTuple):
    """JSON with `%s` for each value; how many these are."""

    json: str
    values: int


class Alike:
    """Documents of one text. `read` reads one line by line, `scalar` what stands behind a key or a dash.

    Both raise ValueError or an error of their own for what they do not read. `depth` is that of the deepest value.
    """

    def __init__(self, read: Read, scalar: Read, depth: int) -> None:
        self._read, self._scalar, self._depth = read, scalar, depth
        self._patterns: dict[str, _Pattern | None] = {}  # None: seen once, or of no use
        self._useless: set[str] = set()
        self._written: dict[str, str] = {"{}": "{}", "[]": "[]"}  # scalars as they are written → as JSON has them

    def document(self, text: str) -> Value:
        """The value of a document. Raises what `read` and `scalar` raise."""
        parts = _VALUE.split(text)
        values = parts[2::3]
        if len(values) > _VALUES_MAX:
            return self._read(text)
        del parts[2::3]
        skeleton = _STANDS_FOR.join(parts)
        pattern = self._patterns.get(skeleton)
        if pattern is None:
            if skeleton not in self._patterns:
                self._patterns[skeleton] = None
            elif skeleton not in self._useless:
                pattern = self._learnt(skeleton, parts)
            if pattern is None:
                return self._read(text)
        written = self._written
        for one in values:
            if one not in written:
                if one[0] in _MORE:
                    return self._read(text)
                written[one] = f'"{one}"' if _TEXT.fullmatch(one) else _json(self._scalar(one))
        return msgspec.json.decode(pattern.json % tuple([written[one] for one in values]))

    def _learnt(self, skeleton: str, parts: list[str]) -> _Pattern | None:
        """The pattern of documents of which this is left without their values, where it is of use."""
        count = len(parts) // 2
        numbered = [part + (f"{_STANDS_FOR}{index // 2}" if index % 2 else "") for index, part in enumerate(parts)]
        made = self._read("".join(numbered))
        text = _json(made)
        in_order = [int(one) for one in _PLACE.findall(text)] == list(range(count))
        if made is None or not in_order or "%" in text or _depth_of(made) + _DEPTH_SPARE > self._depth:
            self._useless.add(skeleton)
            return None
        pattern = self._patterns[skeleton] = _Pattern(_PLACE.sub("%s", text), count)
        return pattern


def _depth_of(value: Value) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_depth_of, value), default=0) if isinstance(value, list) else 1
