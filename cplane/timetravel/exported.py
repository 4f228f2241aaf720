"""A log as text: JSON, an object on each line, that is made a log again with the same positions and digests.

The first line is a `Header`, the last a `Trailer`, so that a file that was cut is found; between them is an `Exported`
for each event. `data` is the event as it is stored, byte for byte, because the digest is over these bytes.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

import msgspec

from cplane.timetravel.history import History, NoSuchMoment

FORMAT: Final = 1
_GENESIS: Final = bytes(32).hex()
_ENCODER: Final = msgspec.json.Encoder(order="deterministic")  # as `eventlog.codec` writes events


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose log it is, and its first position; `previous` is the digest before that, in hexadecimal.

    Where the log does not begin with position 1, `state` is what its events up to there had led to (`Ledger.dump`) and
    `state_recorded_at_ns` when the last of these was recorded.
    """

    cplane_log: int
    cluster: str
    node: str
    first: int
    previous: str
    state: bytes = b""
    state_recorded_at_ns: int = 0


class Exported(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An event with all that is stored of it; `digest` is in hexadecimal."""

    position: int
    stream: str
    version: int
    type: str
    schema: int
    recorded_at_ns: int
    actor: str
    cause: str
    data: msgspec.Raw
    digest: str


class Trailer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many events there are, the last position, and its digest in hexadecimal.

    `header` is the blake2b-256 of the first line, without its end: the chain of events says nothing about a state.
    """

    events: int
    last: int
    digest: str
    header: str


def export(history: History, now_ns: int, *, first: str = "", last: str = "") -> Iterator[bytes]:
    """The lines, without their ends, of the events from one moment to another; empty: all.

    A time means the first event behind it as `first`, and the last up to it as `last`. Raises NoSuchMoment.
    """
    begin = _before(history, first, now_ns) if first else history.start
    end = history.position_of(last, now_ns) if last else history.head
    if end <= begin and history.head:
        raise NoSuchMoment(f"there is no event from {first or 'the first'} to {last or 'the last'}")
    return _lines(history, begin, end)


def _lines(history: History, begin: int, end: int) -> Iterator[bytes]:
    joined = history.ledger(end).joined
    cluster, node = (joined.cluster, joined.name) if joined is not None else ("", "")
    previous, state, at_ns = _GENESIS, b"", 0
    if begin:
        previous, at_ns = history.digest(begin).hex(), history.recorded_at_ns(begin)
        state = history.ledger(begin).dump()
    header = _ENCODER.encode(Header(FORMAT, cluster, node, begin + 1, previous, state, at_ns))
    yield header
    digest = previous
    for one in history.stored(begin, end):
        digest = one.digest.hex()
        yield _ENCODER.encode(Exported(*one[:-2], msgspec.Raw(one.data), digest))
    yield _ENCODER.encode(Trailer(end - begin, end, digest, header_digest(header)))


def header_digest(line: bytes) -> str:
    """What the last line says about the first one."""
    return blake2b(line, digest_size=32).hexdigest()


def _before(history: History, first: str, now_ns: int) -> int:
    """The position before the first event that is meant."""
    position = history.position_of(first, now_ns)
    named = first.strip()
    return max(position - 1, 0) if named.isdigit() or named == "head" else position
