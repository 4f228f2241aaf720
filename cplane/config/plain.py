"""Plain YAML, as programs and most people write it: read line by line, ten times as fast as from libyaml's events.

Whatever is not plain (anchors, tags, folded text, a value of several lines, anything wrong) is left to who knows all
of YAML and can say what is wrong. What is read here is read as there; a property test holds it to that.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from yaml.nodes import ScalarNode
from yaml.resolver import Resolver

from cplane.config.alike import Alike
from cplane.config.problems import Bounds, Document, Value, distinct
from cplane.config.yaml import convert

_CHUNK: Final = 1 << 16  # characters whose lines are taken apart at a time
_SIGNED_MAX: Final = 1 << 16  # characters of a value in quotes or brackets; expressions keep what they may go back to
_KEY_MAX: Final = 1000  # characters; YAML has a limit for keys that stand before their values

# Of characters beyond ASCII only those that are letters or signs to everybody, and neither spaces nor line breaks.
_UNUSUAL: Final = re.compile("[^\n -~\u00a1-\u167f\u3001-\ud7ff]")
# Indentation with the dash of an item, a key without quotes and its value; or else what stands there instead.
_LINE: Final = re.compile(r"^( *+(?:- ++)?)(?:([A-Za-z0-9_./-]++):(?: ++(.*+)|$)|(.*+))", re.MULTILINE)
_MARK: Final = re.compile(r"^--- *$\n?", re.MULTILINE)  # ends a document wherever it stands, and begins another
_DOUBLE_QUOTED: Final = re.compile(r'"[^"\\]*+(?:\\["\\nt][^"\\]*+)*"')
_SINGLE_QUOTED: Final = re.compile(r"'[^']*+(?:''[^']*+)*'")
_SIGNS: Final = frozenset(["", *"[]{}#&*!|>%@`,?:\"'"])  # a value that begins so is not what it looks like
_BRACKETS: Final = frozenset("[{")
_DASHES: Final = frozenset({"-", "- "})
_WORD: Final = r"[A-Za-z0-9_./][A-Za-z0-9_./+-]*+(?::++[A-Za-z0-9_./+-]++)*"
_FLOW: Final = re.compile(rf'(?:"[^"\\]*+"|{_WORD}|: |[][{{}}, ])*')
_FLOW_WORD: Final = re.compile(rf'"[^"\\]*+"|{_WORD}')
_NOT_TEXT: Final = frozenset("yYnNtTfFoO-+0123456789.<~=")  # first characters of scalars that may be something else
_LITERALS: Final = frozenset({"|", "|-"})
_MISSING: Final = object()

_Mapping = dict[str, Value]
_Sequence = list[Value]
_Line = tuple[str, str, str, str]


class _NotPlainError(Exception):
    """There is something that is not read here."""


def read_plain(text: str, bounds: Bounds) -> tuple[Document, ...] | None:
    """The documents of a text that have content; None where not all of it is plain, or it may be too much."""
    if _UNUSUAL.search(text) or _values_at_most(text) > bounds.values:
        return None
    reader = _Reader(bounds)
    alike = Alike(reader.document, reader.scalar, bounds.depth)
    documents: list[Document] = []
    number = 0
    try:
        for marked, one in enumerate(_MARK.split(text)):
            value = alike.document(one)
            number += bool(marked) or value is not None  # nothing before the first mark is no document
            if number > bounds.documents:
                return None
            if value is not None:
                documents.append(Document(number, value))
    except (_NotPlainError, ValueError):
        return None
    return tuple(documents)


def _values_at_most(text: str) -> int:
    """A key and a value for each colon, an element for each dash, comma and bracket, and the document itself."""
    return 2 * text.count(":") + 2 * text.count("-") + sum(map(text.count, ",[{")) + 1


def _lines(text: str) -> Iterator[tuple[_Line, str]]:
    """Each line, taken apart and as it is."""
    return chain.from_iterable(zip(_LINE.findall(one), one.split("\n"), strict=True) for one in _chunks(text))


def _chunks(text: str) -> Iterator[str]:
    start = 0
    while start <= len(text):
        end = text.find("\n", start + _CHUNK)
        chunk = text[start:] if end < 0 else text[start:end]
        yield chunk
        start += len(chunk) + 1


@dataclass(slots=True)
class _Block:
    """Literal text (`|`) that is being read: where it goes, and below which indentation it stands."""

    held: _Mapping | _Sequence
    key: str
    level: int
    strip: bool
    lines: list[str] = field(default_factory=list)

    def takes(self, line: str) -> bool:
        """Whether the line is part of the text; then it is kept."""
        content = line.lstrip(" ")
        if content and len(line) - len(content) <= self.level:
            return False
        self.lines.append(line)
        return True

    def close(self) -> None:
        """Puts the text where it goes."""
        first = next((line for line in self.lines if line.strip(" ")), "")
        width = len(first) - len(first.lstrip(" "))
        before = self.lines[: self.lines.index(first)] if first else []
        if not first or any(line.strip(" ") and line[:width].strip(" ") for line in self.lines):
            raise _NotPlainError
        if any(len(line) > width for line in before):
            raise _NotPlainError
        texts = [line[width:] for line in self.lines]
        while not texts[-1]:
            texts.pop()
        text = "\n".join(texts) + ("" if self.strip else "\n")
        if isinstance(self.held, dict):
            self.held[self.key] = text
        else:
            self.held[-1] = text


class _Reader:
    """The collections that are open, innermost last, each with its indentation."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds, self._resolver = bounds, Resolver()
        self._scalars: _Mapping = {"": None}  # as they are written → what they are
        self._prefixes: dict[str, tuple[int, int]] = {}  # → where the dash stands, -1: nowhere; where the rest stands
        self._keys: set[str] = set()  # that are text
        self._root: _Mapping | _Sequence | None = None
        self._stack: list[tuple[int, _Mapping | _Sequence]] = []
        self._mapping: _Mapping = {}  # the innermost collection, if it is one
        self._level = -1  # its indentation, -1 where it is none
        self._pending: str | None = None  # a key of the innermost mapping whose value may follow below it
        self._block: _Block | None = None

    def document(self, text: str) -> Value:
        """The value of a document; None: it has no content.

        Raises _NotPlainError, or ValueError for a value that is none.
        """
        self._begin()
        prefixes, keys, scalars = self._prefixes, self._keys, self._scalars
        for (prefix, key, value, rest), line in _lines(text):
            if self._block is not None and self._block_takes(line):
                continue
            dash, level = prefixes.get(prefix) or self._measure(prefix)
            if key:
                if dash >= 0:
                    self._begin_item(dash, level)
                elif level != self._level:
                    self._find_entries(level)
                held = self._mapping
                if key not in keys or key in held:
                    self._check(key)
                self._pending = None if value else key
                found = scalars.get(value, _MISSING)
                held[key] = self._value(value, held, key, level) if found is _MISSING else found
            elif dash >= 0:
                items = self._items_at(dash)
                items.append(None)
                items[-1] = self._value(rest, items, "", dash)
            elif rest and rest[0] != "#":
                raise _NotPlainError
        if self._block is not None:
            if not text.endswith("\n"):
                raise _NotPlainError
            self._block.close()
        return self._root

    def _begin(self) -> None:
        self._root, self._pending, self._block = None, None, None
        self._stack.clear()
        self._level = -1

    def scalar(self, written: str) -> Value:
        """What stands behind a key or a dash, where that is no collection, nor goes on in the next line. Raises too."""
        return self._value(written, [], "", 0)

    def _measure(self, prefix: str) -> tuple[int, int]:
        found = self._prefixes[prefix] = prefix.find("-"), len(prefix)
        return found

    def _check(self, key: str) -> None:
        if key in self._mapping or len(key) > _KEY_MAX or not isinstance(self._plain(key), str):
            raise _NotPlainError
        self._keys.add(key)

    def _block_takes(self, line: str) -> bool:
        assert self._block is not None, "it was looked at before"
        if self._block.takes(line):
            return True
        self._block.close()
        self._block = None
        return False

    def _begin_item(self, dash: int, level: int) -> None:
        """An item that is a mapping is the innermost collection."""
        entries: _Mapping = {}
        self._items_at(dash).append(entries)
        self._open(level, entries)

    def _items_at(self, level: int) -> _Sequence:
        """The sequence that an item with this indentation is in."""
        stack = self._stack
        if not stack or (self._pending is not None and level >= stack[-1][0]):
            made: _Sequence = []  # items may stand right below the key whose value they are
            self._open(level, made)
            return made
        self._pending = None
        at, held = stack[-1]
        while at > level or (at == level and isinstance(held, dict)):
            at, held = self._close()
        if at != level or isinstance(held, dict):
            raise _NotPlainError
        self._level = -1
        return held

    def _find_entries(self, level: int) -> None:
        """The mapping that an entry with this indentation is in is the innermost collection."""
        stack = self._stack
        if not stack or (self._pending is not None and level > stack[-1][0]):
            self._open(level, {})
            return
        at, held = stack[-1]
        while at > level or (at == level and isinstance(held, list)):
            at, held = self._close()
        if at != level or isinstance(held, list):
            raise _NotPlainError
        self._level, self._mapping = at, held

    def _close(self) -> tuple[int, _Mapping | _Sequence]:
        """The innermost collection is complete; the one around it."""
        stack = self._stack
        stack.pop()
        if not stack:
            raise _NotPlainError
        return stack[-1]

    def _open(self, level: int, made: _Mapping | _Sequence) -> None:
        """One more collection is the innermost one; it is the value of the key that waits for one, if one does."""
        stack = self._stack
        if not stack:
            self._root = made
        elif self._pending is not None:
            self._mapping[self._pending] = made
        self._pending = None
        stack.append((level, made))
        if len(stack) >= self._bounds.depth:
            raise _NotPlainError
        if isinstance(made, dict):
            self._level, self._mapping = level, made
        else:
            self._level = -1

    def _value(self, written: str, held: _Mapping | _Sequence, key: str, level: int) -> Value:
        """What stands behind a key or a dash."""
        text = written.rstrip(" ")
        first = text[:1]
        if first not in _SIGNS:
            if ": " in text or " #" in text or text[-1] == ":" or text[:2] in _DASHES:
                raise _NotPlainError
            value = self._plain(text)
        elif len(text) > _SIGNED_MAX:
            raise _NotPlainError
        elif first in _BRACKETS:
            return self._flow(text)
        elif text in _LITERALS:
            self._block = _Block(held, key, level, text != "|")
            return None
        elif _DOUBLE_QUOTED.fullmatch(text):
            value = json.loads(text)
        elif _SINGLE_QUOTED.fullmatch(text):
            value = text[1:-1].replace("''", "'")
        else:
            raise _NotPlainError
        self._scalars[written] = value
        return value

    def _plain(self, text: str) -> Value:
        # Nothing but text has two dots, and most of what has is an address.
        if text[0] not in _NOT_TEXT or text.count(".") > 1:
            return text
        tag = str(self._resolver.resolve(ScalarNode, text, (True, False)))  # type: ignore[no-untyped-call]  # PyYAML
        return convert(tag, text)

    def _flow(self, text: str) -> Value:
        """`{a: b, c: [d]}`: what of it is YAML alone becomes JSON, or else not JSON either."""
        if not _FLOW.fullmatch(text) or len(self._stack) + text.count("[") + text.count("{") >= self._bounds.depth:
            raise _NotPlainError
        return json.loads(_FLOW_WORD.sub(self._word, text), object_pairs_hook=distinct)

    def _word(self, found: re.Match[str]) -> str:
        word = found.group()
        return word if word[0] == '"' else json.dumps(self._plain(word), ensure_ascii=False)
