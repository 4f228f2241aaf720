"""Frames out of a peer's bytes, and what a merge must know of each: its time, and whether it holds a flow.

A response is never decoded. Its outer fields are walked until both are known, for a whole batch at a time: each round
looks at one field of every message. What is built in an unusual way is walked alone, byte by byte.
"""

from collections.abc import Sequence
from itertools import pairwise
from struct import Struct
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cplane.errors import Corrupt
from cplane.pb.observer import observer_pb2

MESSAGE_MAX: Final = 4 << 20  # bytes, which is what gRPC takes by default
NO_TIME: Final = -1  # of a message that does not say when
HEADER: Final = 5  # bytes before a message: a compression flag, and the length
_LENGTH: Final = Struct(">xL")

_FIELDS: Final = observer_pb2.GetFlowsResponse.DESCRIPTOR.fields_by_name
_TIME: Final = _FIELDS["time"].number
_FLOW: Final = _FIELDS["flow"].number
_KINDS: Final = _FLOW, _FIELDS["node_status"].number, _FIELDS["lost_events"].number
_KIND_MAX: Final = max(_KINDS)
_VARINT, _FIXED64, _SIZED, _FIXED32 = 0, 1, 2, 5  # wire types
_NS: Final = 1_000_000_000
_SECONDS_MAX: Final = (1 << 63) // _NS - 1
# a time whose numbers have five bytes each, and the tag of a flow; of the numbers counts only which byte is the last
_BEGINNING: Final = bytes(
    (_TIME << 3 & 0x7F | 0x82, _TIME >> 4, 12, 8, *4 * (0x80,), 0, 16, *4 * (0x80,), 0, _FLOW << 3 | 2)
)
_FIXED_BITS: Final = bytes((*4 * (0xFF,), *5 * (0x80,), 0xFF, *5 * (0x80,), 0xFF))
_WORDS: Final = tuple(int.from_bytes(_BEGINNING[at : at + 8], "little") for at in (0, 8))
_MASKS: Final = tuple(int.from_bytes(_FIXED_BITS[at : at + 8], "little") for at in (0, 8))
_FEW: Final = 24  # messages that are walked faster one by one
_ROUNDS: Final = 4  # fields that are looked at in common: a flow, a node's name, a time, and one more
_PADDING: Final = bytes(16)  # so that looking ahead at the last message stays inside

_Bytes = npt.NDArray[np.uint8]
_Places = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]
_Truths = npt.NDArray[np.bool_]


class Garbage(Corrupt):
    """What a peer sent is no series of messages."""

    code = "relay.garbage"

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __str__(self) -> str:
        return f"its answer cannot be read: {self.reason}"


class Batch(NamedTuple):
    """Messages with their headers, in the order in which they came; `times` are UTC nanoseconds, or NO_TIME.

    They stay together in `data`, each between two of `bounds`: a message of its own would cost as much as all the rest.
    """

    data: bytes
    bounds: npt.NDArray[np.int64]
    times: npt.NDArray[np.int64]
    flows: npt.NDArray[np.bool_]

    @property
    def size(self) -> int:
        """Bytes of the messages."""
        return int(self.bounds[-1])

    @property
    def frames(self) -> list[bytes]:
        """The messages."""
        return [self.data[start:stop] for start, stop in pairwise(self.bounds.tolist())]


class Cutter:
    """Cuts what one peer sends; it holds less than one message."""

    def __init__(self) -> None:
        self._rest = b""
        self._garbage: Garbage | None = None

    def feed(self, *parts: bytes) -> Batch | None:
        """The messages that are whole now; None: not one. Raises Garbage, once all that came before was given."""
        self._check()
        data = b"".join((self._rest, *parts))
        bounds, self._garbage = _cut(data)
        stop = int(bounds[-1])
        self._rest = data[stop:]
        if not stop:
            self._check()
            return None
        return Batch(data, bounds, *scan(data, bounds))

    def finish(self) -> None:
        """The peer has ended the stream. Raises Garbage."""
        self._check()
        if self._rest:
            raise Garbage("it ends in the middle of a message")

    def _check(self) -> None:
        if self._garbage is not None:
            raise self._garbage


def _cut(data: bytes) -> tuple[_Places, Garbage | None]:
    """Where the whole messages at the beginning of `data` begin and end, and why what follows them is none."""
    ends, at, last, length_at = [0], 0, len(data) - HEADER, _LENGTH.unpack_from
    add = ends.append
    while at <= last:
        (length,) = length_at(data, at)
        at += length + HEADER
        add(at)
    bounds = np.array(ends, np.int64)
    heads, lengths = bounds[:-1], np.diff(bounds) - HEADER
    wrong = (np.frombuffer(data, np.uint8)[heads] != 0) | (lengths > MESSAGE_MAX)
    if wrong.any():
        first = int(wrong.argmax())
        compressed = "it is compressed, and nothing of the kind was asked for"
        too_long = f"a message of {lengths[first]} bytes; {MESSAGE_MAX} is the most"
        return bounds[: first + 1], Garbage(compressed if data[int(heads[first])] else too_long)
    return (bounds[:-1] if at > len(data) else bounds), None


def scan(data: bytes, bounds: _Places | Sequence[int]) -> tuple[npt.NDArray[np.int64], _Truths]:
    """Times, and which are flows, of the frames between the bounds."""
    edges = np.asarray(bounds, np.int64)
    starts, stops = edges[:-1] + HEADER, edges[1:]
    if len(starts) <= _FEW:
        return _walk_alone(data, starts, stops)
    times, flows = _usual(data, starts, stops)
    others = np.flatnonzero(~flows)
    if len(others):
        walk = _walk_alone if len(others) <= _FEW else _walk_all
        times[others], flows[others] = walk(data, starts[others], stops[others])
    return times, flows


def _walk_alone(data: bytes, starts: _Places, stops: _Places) -> tuple[npt.NDArray[np.int64], _Truths]:
    """Times and kinds, one after another."""
    pairs = [scan_one(data, start, stop) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
    return np.array([time for time, _ in pairs], np.int64), np.array([flow for _, flow in pairs], np.bool_)


def _walk_all(data: bytes, starts: _Places, stops: _Places) -> tuple[npt.NDArray[np.int64], _Truths]:
    """Times and kinds, of all at once as far as that is possible."""
    padded = np.frombuffer(data + _PADDING, np.uint8)
    places, flows, odd = _walk(padded, starts, stops)
    times = _stamps(padded, places, odd)
    rest = np.flatnonzero(odd)
    times[rest], flows[rest] = _walk_alone(data, starts[rest], stops[rest])
    return times, flows


def _usual(data: bytes, starts: _Places, stops: _Places) -> tuple[npt.NDArray[np.int64], _Truths]:
    """Which messages begin with a time of 12 bytes and go on with a flow, and these times.

    That is what our own agents send, all but the messages of losses.
    """
    width = len(_BEGINNING)
    usual = stops - starts >= width
    if not usual.any():
        return np.zeros(len(starts), np.int64), usual
    # a word at every byte, none of which is copied; what is too short to be looked at is looked at elsewhere
    words: _Words = np.ndarray(len(data) - 7, "<u8", data, strides=(1,))
    places = np.where(usual, starts, starts[usual.argmax()])
    first, second = words[places], words[places + 8]
    usual &= ((first & _MASKS[0]) == _WORDS[0]) & ((second & _MASKS[1]) == _WORDS[1])
    seconds = _number(first >> 32 | second << 32)
    nanos = _number(second >> 16)
    usual &= (seconds <= _SECONDS_MAX) & (nanos < _NS)
    times: npt.NDArray[np.int64] = np.where(usual, seconds * _NS + nanos, 0).astype(np.int64)
    return times, usual


def _number(varint: _Words) -> _Words:
    """Of the five lowest bytes, seven bits each."""
    value = varint & np.uint64(0x7F)
    for byte in range(1, 5):
        value |= varint >> np.uint64(byte) & np.uint64(0x7F << 7 * byte)
    return value


def _walk(
    data: _Bytes, starts: _Places, stops: _Places
) -> tuple[_Places, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Where each message's time begins (after its tag), which are flows, and which must be walked alone."""
    count = len(starts)
    places = np.zeros(count, np.int64)
    kinds = np.zeros(count, np.int64)
    odd = np.zeros(count, np.bool_)
    left = np.arange(count)
    at = starts
    for _ in range(_ROUNDS):
        first, second, third = data[at], data[at + 1], data[at + 2]
        long = first > 0x7F
        field = np.where(long, (first & 0x7F).astype(np.int64) | second.astype(np.int64) << 7, first) >> 3
        strange = ((first & 7) != _SIZED) | (long & (second > 0x7F))
        after = at + 1 + long
        first, second, third = data[after], data[after + 1], data[after + 2]
        two, three = first > 0x7F, (first > 0x7F) & (second > 0x7F)
        strange |= three & (third > 0x7F)  # 2 MiB and more, or no length at all
        length = (first & 0x7F).astype(np.int64)
        length += np.where(two, (second & 0x7F).astype(np.int64) << 7, 0)
        length += np.where(three, third.astype(np.int64) << 14, 0)
        following = after + 1 + two + three + length
        strange |= following > stops[left]
        is_time = (field == _TIME) & (places[left] == 0)
        places[left[is_time]] = after[is_time]
        is_kind = (field <= _KIND_MAX) & (kinds[left] == 0)
        kinds[left[is_kind]] = field[is_kind]
        odd[left[strange]] = True
        on = ~strange & (following < stops[left]) & ((places[left] == 0) | (kinds[left] == 0))
        left, at = left[on], following[on]
        if not len(left):
            break
    odd[left] = True
    odd |= (places == 0) | (kinds == 0)
    return places, kinds == _FLOW, odd


def _stamps(data: _Bytes, places: _Places, odd: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The times at these places; `odd` becomes true for those that are not written as all of our days are."""
    window = data[places[:, None] + np.arange(13)].astype(np.int64)
    size, low = window[:, 0], window & 0x7F
    plain = (size <= 12) & (window[:, 1] == 0x08) & (window[:, 2:6] > 0x7F).all(axis=1) & (window[:, 6] <= 0x7F)
    seconds = low[:, 2] | low[:, 3] << 7 | low[:, 4] << 14 | low[:, 5] << 21 | low[:, 6] << 28
    plain &= seconds <= _SECONDS_MAX
    whole = plain & (size == 6)
    # the varint of the nanoseconds fills what is left, so only its last byte ends it
    width = size - 7
    column = np.arange(5)
    used = column < width[:, None]
    continued = (window[:, 8:13] > 0x7F) == (column < width[:, None] - 1)
    parted = plain & (width >= 1) & (window[:, 7] == 0x10) & (continued | ~used).all(axis=1)
    nanos = (np.where(used, low[:, 8:13], 0) << (7 * column)).sum(axis=1)
    parted &= nanos < _NS
    odd |= ~(whole | parted)
    times: npt.NDArray[np.int64] = np.where(plain, seconds, 0) * _NS + np.where(parted, nanos, 0)
    return times


def scan_one(data: bytes, at: int, stop: int) -> tuple[int, bool]:
    """Time and whether it is a flow, of one message, as far as it can be read; the first of several counts."""
    time, kind = NO_TIME, 0
    try:
        while at < stop and not (kind and time != NO_TIME):
            tag, at = _varint(data, at, stop)
            field, wire = tag >> 3, tag & 7
            length = {_VARINT: 0, _FIXED64: 8, _FIXED32: 4}.get(wire, 0)
            if wire == _VARINT:
                _, at = _varint(data, at, stop)
            elif wire == _SIZED:
                length, at = _varint(data, at, stop)
            elif not length:
                break
            if at + length > stop:
                break
            if wire == _SIZED and field == _TIME and time == NO_TIME:
                time = _stamp(data, at, at + length)
            elif wire == _SIZED and field in _KINDS and not kind:
                kind = field
            at += length
    except IndexError:
        pass  # a message that breaks off says what it says up to there
    return time, kind == _FLOW


def _stamp(data: bytes, at: int, stop: int) -> int:
    """Nanoseconds of an encoded google.protobuf.Timestamp; NO_TIME for what is none, or lies before 1970."""
    values = {1: 0, 2: 0}
    while at < stop:
        tag, at = _varint(data, at, stop)
        if tag & 7 != _VARINT:
            return NO_TIME
        values[tag >> 3], at = _varint(data, at, stop)
    seconds, nanos = values[1], values[2]
    return seconds * _NS + nanos if seconds <= _SECONDS_MAX and nanos < _NS else NO_TIME


def _varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """A number and where it ends. Raises IndexError where it does not."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= stop:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte <= 0x7F:
            return value, at
    raise IndexError
