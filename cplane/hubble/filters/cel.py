"""CEL expressions about flows: `_flow` is a `flow.Flow`, and an expression selects those for which it is true.

The language is the one that Hubble's other servers read: names of fields as in the proto file, fields that are not
set have their defaults, `has()` tells the difference, enumerations are `Verdict.DROPPED` or `flow.Verdict.DROPPED`.
The library under it knows mappings and no messages, so `has()` and names of fields are ours.

An expression comes from a stranger. Nobody can stop the library while it evaluates one, so what may take long is
refused before: one evaluation of what passes here takes tens of milliseconds at the very worst (two
loops, over lists that fit into a text of 1,024 characters; regular expressions, which are compiled at each evaluation).
What is slow for every flow is ended by its `Budget`. Flows of one kind are judged once, see `Expressions`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from cplane.hubble.filters.predicate import BadFilter, Mask
from cplane.hubble.flow import KEY, FlowBuilder, Varying, key_of
from cplane.hubble.ring import Span
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from cplane.telemetry.clock import SystemClock

if TYPE_CHECKING:
    from cel import cel

FIELD: Final = "experimental.cel_expression"
ROWS: Final = 128  # rows that are judged before others run, where there are expressions
TEXT_MAX: Final = 1024  # characters of an expression
EXPRESSIONS_MAX: Final = 8  # of one filter
_LOOPS_MAX: Final = 2
_LOOPED_MATCH_MAX: Final = 200  # characters of an expression with a regular expression and a loop
_KINDS_MAX: Final = 1 << 14  # kinds of flows whose answer is remembered; all are forgotten beyond that
_SPENT_FREE_NS: Final = 250_000_000
_EACH_MAX_NS: Final = 1_000_000  # for each evaluation, on average, once the free time is spent
_ORIGIN: Final = "position"
_OF_VALUES: Final = (ValueError, LookupError, ArithmeticError)  # what the library raises because of a value
_MONOTONIC: Final = SystemClock().monotonic_ns

# texts, which may hold anything; triple quotes first
_STRING: Final = r"""[rRbB]{0,2}(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
_PATH: Final = r"(?:\s*\.\s*[A-Za-z_]\w*)+"
_HAS: Final = re.compile(rf"(?P<text>{_STRING})|\bhas\s*\(\s*_flow(?P<path>{_PATH})\s*\)", re.DOTALL)
_FLOW: Final = re.compile(rf"(?P<text>{_STRING})|\b_flow\b(?P<path>{_PATH})?(?P<call>\s*\()?", re.DOTALL)
_HAS_OTHER: Final = re.compile(rf"(?P<text>{_STRING})|\bhas\s*\(", re.DOTALL)
# Counted in texts too: whether something stands in a text is for the library to say, and not for us to get wrong.
_LOOP: Final = re.compile(r"\b(?:all|exists|exists_one|existsOne|map|filter)\b")
_BOUND: Final = re.compile(rf"{_LOOP.pattern}\s*\(\s*([A-Za-z_]\w*)\s*,")  # the variable of a loop
_REPETITION: Final = re.compile(r"\{|\\[xXuU0-7]")
_SET: Final = "_set"  # the paths that `has` was asked for, and that are set
_WRAPPERS: Final = frozenset({"google.protobuf.BoolValue", "google.protobuf.Int32Value", "google.protobuf.UInt32Value"})
_STAMP: Final = "google.protobuf.Timestamp"
_ANY: Final = "google.protobuf.Any"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MESSAGE: Final[Descriptor] = flow_pb2.Flow.DESCRIPTOR  # type: ignore[assignment]  # the C twin of that class
_ENUMS: Final[Mapping[str, Mapping[str, int]]] = {
    name: {value.name: value.number for value in enum.values}
    for name, enum in flow_pb2.DESCRIPTOR.enum_types_by_name.items()
}
_NAMES: Final[Mapping[str, object]] = {**_ENUMS, "flow": dict(_ENUMS)}
FUNCTIONS: Final = frozenset(
    {
        *("size", "contains", "startsWith", "endsWith", "matches", "string", "int", "uint", "double", "bytes"),
        *("timestamp", "duration", "getFullYear", "getMonth", "getDayOfYear", "getDayOfMonth", "getDate"),
        *("getDayOfWeek", "getHours", "getMinutes", "getSeconds", "getMilliseconds"),
    }
)
# columns of what differs within a kind, and the fields that show them
_VARYING: Final[Mapping[str, tuple[str, ...]]] = {
    "l4": ("sport", "dport"),
    "time": ("time_ns",),
    "uuid": (_ORIGIN,),
    "socket_cookie": ("cookie",),
    **dict.fromkeys(("l7", "trace_context", "Summary"), ("cookie",)),
}
_KIND: Final = np.dtype(
    [*KEY.descr, ("sport", "u2"), ("dport", "u2"), ("cookie", "u4"), ("time_ns", "u8"), (_ORIGIN, "u8")]
)

_Tree = dict[str, "_Tree"]
Value = Any  # what a field is to the library: numbers, texts, lists, mappings, None, times


class Budget:
    """Time that expressions may take: all of them a little, and beyond that so much for each evaluation.

    Without `ends` nothing is ended, for those that whoever runs the agent has written.
    """

    def __init__(self, monotonic_ns: Callable[[], int], *, ends: bool) -> None:
        self._now, self._ends, self._spent, self._count = monotonic_ns, ends, 0, 0

    def run(self, program: "cel.Program", names: dict[str, Value], text: str) -> object:
        """What the expression evaluates to. Raises what the library raises, and BadFilter when it takes too long."""
        began = self._now()
        try:
            return program.execute(names)
        finally:
            self._spent += self._now() - began
            self._count += 1
            if self._ends and self._spent > _SPENT_FREE_NS and self._spent > _EACH_MAX_NS * self._count:
                each = self._spent / self._count / 1e6
                raise BadFilter(FIELD, f"{text!r} takes {each:.1f} ms for each flow; make it simpler")


class Expression:
    """One expression, compiled. Raises BadFilter for what cannot be evaluated, or not in bounded time."""

    def __init__(self, text: str) -> None:
        # By its own name, as xds-protos replaces the package above it. 10 MB and 0.2 s for who never has an expression.
        from cel import cel

        self.text = text
        _check_cost(text)
        self._wanted: _Tree = {}
        for path in _paths(text):
            _plant(self._wanted, path)
        self.fields = frozenset(self._wanted)
        asked: list[str] = []
        rewritten = _HAS.sub(lambda found: _membership(found, asked), text)
        self.asked = tuple(asked)
        try:
            self.program = cel.compile(rewritten)
        except ValueError as error:
            raise BadFilter(FIELD, f"error compiling CEL expression {text!r}: {_first_line(error)}") from None
        used = set(self.program.variables())
        functions = {name for name in self.program.functions() if name[0].isalpha()}
        bound = {name for found in _BOUND.finditer(text) for name in found.groups() if name}
        unknown = [*sorted(used - _NAMES.keys() - bound - {"_flow", _SET}), *sorted(functions - FUNCTIONS)]
        if unknown:
            raise BadFilter(FIELD, f"error compiling CEL expression {text!r}: undeclared reference to {unknown[0]!r}")
        if any(found["text"] is None for found in _HAS_OTHER.finditer(rewritten)):
            raise BadFilter(FIELD, f"{text!r}: has() is about fields of _flow here; write has(_flow.field)")
        self._names = {name: _NAMES[name] for name in used & _NAMES.keys()}
        self._try()

    def _try(self) -> None:
        """What is wrong with every flow is wrong with the empty one, as there are no other types to be had."""
        empty = flow_pb2.Flow()
        try:
            result = self.program.execute(self.names(empty))
        except TypeError as error:
            raise BadFilter(FIELD, f"error compiling CEL expression {self.text!r}: {_first_line(error)}") from None
        except RuntimeError as error:
            if "Undefined" in str(error) or "regex" in str(error):
                raise BadFilter(FIELD, f"error compiling CEL expression {self.text!r}: {_first_line(error)}") from None
            return  # of a value, and another flow may have a better one
        except _OF_VALUES:
            return
        if not isinstance(result, bool):
            kind = type(result).__name__
            raise BadFilter(FIELD, f"{self.text!r}: a CEL expression must be a bool here, and this is a {kind}")

    def names(self, flow: flow_pb2.Flow) -> dict[str, Value]:
        """What the expression may name, for one flow."""
        found: dict[str, Value] = {**self._names, "_flow": _plain(flow, self._wanted)}
        if self.asked:
            found[_SET] = {path: True for path in self.asked if _is_set(flow, path.split("."))}
        return found


class Expressions:
    """Flows for which one of several expressions is true.

    What an expression does not look at cannot change its answer, so flows that differ in nothing else are judged
    once. Errors of evaluation (a text that is no number, an index beyond the end) make an expression false, as they
    do elsewhere.
    """

    def __init__(
        self,
        texts: Sequence[str],
        store: FlowStore,
        monotonic_ns: Callable[[], int] = _MONOTONIC,
        *,
        trusted: bool = False,
    ) -> None:
        if len(texts) > EXPRESSIONS_MAX:
            raise BadFilter(FIELD, f"there are {len(texts)} expressions, and at most {EXPRESSIONS_MAX} are taken")
        self._expressions = [Expression(text) for text in texts]
        fields = frozenset(field for one in self._expressions for field in one.fields)
        self._varying = [column for field in _VARYING if field in fields for column in _VARYING[field]]
        self._store, self._builder, self._budget = store, FlowBuilder(store), Budget(monotonic_ns, ends=not trusted)
        self._answers: dict[bytes, bool] = {}
        self._generation = store.generation

    def __call__(self, span: Span, rows: npt.NDArray[np.intp]) -> Mask:
        """One bool for each of the rows (relative to the span)."""
        if self._generation != self._store.generation or len(self._answers) > _KINDS_MAX:
            self._answers.clear()
            self._generation = self._store.generation
        kinds: list[bytes] = self._kinds(span, rows).view(f"S{_KIND.itemsize}").tolist()
        answers = self._answers
        for kind in dict.fromkeys(kinds):
            if kind not in answers:
                answers[kind] = self._judge(kind)
        return np.fromiter((answers[kind] for kind in kinds), np.bool_, len(kinds))

    def _kinds(self, span: Span, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.void]:
        kinds = np.zeros(len(rows), _KIND)
        for name in KEY.names or ():
            kinds[name] = span[name][rows]
        for name in self._varying:
            kinds[name] = rows + span.start if name == _ORIGIN else span[name][rows]
        return kinds

    def _judge(self, kind: bytes) -> bool:
        data = kind.ljust(_KIND.itemsize, b"\0")
        row = np.frombuffer(data, _KIND)[0]
        uuid = self._store.ids.text(int(row[_ORIGIN]))
        time_ns, sport, dport, cookie = (int(row[name]) for name in ("time_ns", "sport", "dport", "cookie"))
        varying = Varying(time_ns, 0, sport, dport, uuid, cookie)
        flow = self._builder.complete(key_of(data[: KEY.itemsize]), varying)
        return any(self._is_true(one, flow) for one in self._expressions)

    def _is_true(self, one: Expression, flow: flow_pb2.Flow) -> bool:
        try:
            return self._budget.run(one.program, one.names(flow), one.text) is True
        except (TypeError, RuntimeError, *_OF_VALUES):
            return False


def _check_cost(text: str) -> None:
    if len(text) > TEXT_MAX:
        raise BadFilter(FIELD, f"an expression of {len(text)} characters is too long; at most {TEXT_MAX} are taken")
    loops = len(_LOOP.findall(text))
    if loops > _LOOPS_MAX:
        raise BadFilter(FIELD, f"{text!r}: it has {loops} of all, exists, map and filter; at most {_LOOPS_MAX}")
    if "matches" in text:
        if _REPETITION.search(text):
            raise BadFilter(FIELD, f"{text!r}: beside matches() there can be neither '{{' nor an escape by number")
        if loops and len(text) > _LOOPED_MATCH_MAX:
            raise BadFilter(FIELD, f"{text!r}: with matches() in it, a loop has at most {_LOOPED_MATCH_MAX} characters")


def _paths(text: str) -> Iterable[Sequence[str]]:
    """The fields of a flow that an expression names. Raises BadFilter for those that do not exist."""
    for found in _FLOW.finditer(text):
        if found["text"] is not None:
            continue
        if found["path"] is None:
            raise BadFilter(FIELD, f"{text!r}: _flow is named as a whole; name a field of it")
        path = _names_of(found["path"])
        yield _of_fields(text, path, called=found["call"] is not None)


def _of_fields(text: str, path: Sequence[str], *, called: bool) -> Sequence[str]:
    """The path without the function at its end that is called on a value."""
    descriptor: Descriptor | None = _MESSAGE
    for number, name in enumerate(path):
        if descriptor is None:  # within a value: what follows is a function, or nothing that exists
            if not (called and number == len(path) - 1):
                raise _undefined(text, name)
            return path[:-1]
        field = descriptor.fields_by_name.get(name)
        if field is None:
            raise _undefined(text, name)
        below = None if field.is_repeated else field.message_type
        descriptor = None if below is None or below.full_name in {*_WRAPPERS, _STAMP} else below
    return path


def _plant(tree: "_Tree", path: Sequence[str]) -> None:
    """The tree has that field too; a field without any below it is wanted whole."""
    for name in path[:-1]:
        if tree.get(name) == {}:
            return
        tree = tree.setdefault(name, {})
    tree[path[-1]] = {}


def _undefined(text: str, name: str) -> BadFilter:
    return BadFilter(FIELD, f"error compiling CEL expression {text!r}: undefined field {name!r}")


def _membership(found: re.Match[str], asked: list[str]) -> str:
    """What `has(_flow.a.b)` is to the library; texts stay as they are."""
    if found["text"] is not None:
        return found[0]
    path = ".".join(_names_of(found["path"]))
    asked.append(path)
    return f"('{path}' in {_SET})"


def _names_of(path: str) -> list[str]:
    return [name.strip() for name in path.split(".")[1:]]


def _is_set(message: Message, path: Sequence[str]) -> bool:
    """As proto3 has it: a message is there, a list is not empty, a value is not its default."""
    for name in path[:-1]:
        message = getattr(message, name)
    return path[-1] in {field.name for field, _ in message.ListFields()}


def _plain(message: Message, wanted: "_Tree") -> dict[str, Value]:
    """The message as a mapping with the fields of the tree, or with every field when the tree is empty."""
    fields: Mapping[str, FieldDescriptor] = message.DESCRIPTOR.fields_by_name  # type: ignore[assignment]  # C twins
    return {name: _value(message, fields[name], wanted.get(name, {})) for name in wanted or fields}


def _value(message: Message, field: FieldDescriptor, wanted: "_Tree") -> Value:
    value = getattr(message, field.name)
    kind = field.message_type
    if kind is None:
        return list(value) if field.is_repeated else value
    if field.is_repeated:
        return [_plain(one, {}) for one in value]
    if kind.full_name == _STAMP:
        return _EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)
    if kind.full_name in _WRAPPERS:
        return value.value if message.HasField(field.name) else None
    if kind.full_name == _ANY:
        return {"type_url": value.type_url}
    return _plain(value, wanted)


def _first_line(error: Exception) -> str:
    """What the library says without the drawing of where."""
    text = str(error)
    return text.partition("\n")[0].rpartition("ERROR: ")[2] or text
