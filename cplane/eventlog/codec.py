"""Envelope ↔ row, and the digest that chains the rows.

The canonical bytes of a row are, big-endian: position, version, schema, recorded_at_ns (each i64), then stream, type,
actor, cause, data, each as a u32 length and its UTF-8 bytes. `digest = blake2b-256(previous digest ‖ canonical
bytes)`; before the first row stand 32 zero bytes.
"""

import struct
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

import msgspec

from cplane.eventlog.errors import BadEvent, UnknownEvent, Unwritable
from cplane.events.catalog import CATALOG, RETIRED, WIRE_NAME, Event
from cplane.events.envelope import Envelope, Proposed, Stored, StreamId
from cplane.events.upcasting import readers

DIGEST_BYTES: Final = 32
GENESIS: Final = bytes(DIGEST_BYTES)
EVENT_BYTES_MAX: Final = 16 << 20  # with who asked and why; at a billion SQLite would refuse all that are in its batch

Row = tuple[int, str, int, str, int, int, str, str, str, bytes]
# As the readers' connections give it: texts are bytes, so that invalid UTF-8 is found here and not in the driver.
StoredRow = tuple[int, bytes, int, bytes, int, int, bytes, bytes, bytes, bytes]

_NUMBERS: Final = struct.Struct(">qqqq")
_LENGTH: Final = struct.Struct(">I").pack
_ENCODER: Final = msgspec.json.Encoder(order="deterministic")
_READ: Final = {(name.encode(), schema): read for (name, schema), read in readers(CATALOG, RETIRED).items()}
_KINDS: Final = {
    cls: (name, schema, name.encode(), _READ[name.encode(), schema]) for cls, (name, schema) in WIRE_NAME.items()
}


class Draft(msgspec.Struct, frozen=True, gc=False):
    """One event ready to become a row as soon as its position and version are known."""

    stream: StreamId
    event: Event
    type: str
    schema: int
    actor: str
    cause: str
    data: str
    texts: bytes  # the second half of the canonical bytes

    def row(self, position: int, version: int, recorded_at_ns: int, previous: bytes) -> tuple[Row, Envelope]:
        """The row at `position`, after a row with the digest `previous`, and what readers will see of it."""
        numbers = _NUMBERS.pack(position, version, self.schema, recorded_at_ns)
        digest = _digest(previous, numbers, self.texts)
        row = (
            position,
            self.stream,
            version,
            self.type,
            self.schema,
            recorded_at_ns,
            self.actor,
            self.cause,
            self.data,
            digest,
        )
        envelope = Envelope(
            position=position,
            stream=self.stream,
            version=version,
            recorded_at_ns=recorded_at_ns,
            actor=self.actor,
            cause=self.cause,
            event=self.event,
            digest=digest,
        )
        return row, envelope


def encode(event: Event) -> bytes:
    """The event's JSON: fields in the order of the class, no spaces. Raises Unwritable when it would not read back."""
    name, _, _, read = _KINDS[type(event)]
    try:
        data = _ENCODER.encode(event)
        again = read(data)
    except (msgspec.MsgspecError, UnicodeError, OverflowError, TypeError) as error:
        raise Unwritable(f"event {name}", str(error)) from error
    if again != event:
        raise Unwritable(f"event {name}", f"it would read back as {again!r}")
    return data


def draft(proposed: Proposed) -> tuple[Draft, ...]:
    """The events of `proposed`, encoded. Raises Unwritable when any of them cannot be stored."""
    actor, cause = _utf8("actor", proposed.actor), _utf8("cause", proposed.cause)
    drafts = []
    for stream, event in proposed.events:
        assert stream in proposed.expected, f"events touch {stream!r} and do not say which version they expect there"
        name, schema, kind, _ = _KINDS[type(event)]
        data = encode(event)
        texts = _join(_utf8("stream", stream), kind, actor, cause, data)
        if len(texts) > EVENT_BYTES_MAX:
            raise Unwritable(f"event {name}", f"it takes {len(texts)} bytes and may have {EVENT_BYTES_MAX}")
        drafts.append(Draft(stream, event, name, schema, proposed.actor, proposed.cause, data.decode(), texts))
    return tuple(drafts)


def digest_of(row: StoredRow, previous: bytes) -> bytes:
    """The digest that `row` must have after a row with the digest `previous`. Raises BadEvent for foreign types."""
    position, stream, version, kind, schema, recorded_at_ns, actor, cause, data, _ = row
    try:
        numbers = _NUMBERS.pack(position, version, schema, recorded_at_ns)
        return _digest(previous, numbers, _join(stream, kind, actor, cause, data))
    except (struct.error, TypeError) as error:
        raise BadEvent(position, f"a column holds a value of the wrong type ({error})") from error


def decode(row: StoredRow) -> Envelope:
    """What the row says. Raises BadEvent when it cannot be read."""
    position, stream, version, kind, schema, recorded_at_ns, actor, cause, data, digest = row
    read = _READ.get((kind, schema))
    if read is None:
        raise UnknownEvent(position, kind.decode(errors="backslashreplace"), schema)
    try:
        return Envelope(
            position=position,
            stream=StreamId(stream.decode()),
            version=version,
            recorded_at_ns=recorded_at_ns,
            actor=actor.decode(),
            cause=cause.decode(),
            event=read(data),
            digest=digest,
        )
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BadEvent(position, f"the event cannot be read: {error}") from error


def decode_fact(position: int, kind: bytes, schema: int, data: bytes) -> Event:
    """The event of a row of which only type, schema and data were read. Raises BadEvent."""
    read = _READ.get((kind, schema))
    if read is None:
        raise UnknownEvent(position, kind.decode(errors="backslashreplace"), schema)
    try:
        event: Event = read(data)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BadEvent(position, f"the event cannot be read: {error}") from error
    return event


def stored_of(row: StoredRow) -> Stored:
    """The row as it is, with texts for texts. Raises BadEvent."""
    position, stream, version, kind, schema, recorded_at_ns, actor, cause, data, digest = row
    try:
        stream_, kind_, actor_, cause_ = stream.decode(), kind.decode(), actor.decode(), cause.decode()
    except UnicodeError as error:
        raise BadEvent(position, f"the event cannot be read: {error}") from error
    return Stored(position, stream_, version, kind_, schema, recorded_at_ns, actor_, cause_, data, digest)


def stored_again(one: Envelope) -> Stored:
    """An event that is in memory alone, as it would be stored."""
    name, schema, _, _ = _KINDS[type(one.event)]
    numbers = (schema, one.recorded_at_ns)
    return Stored(
        one.position, one.stream, one.version, name, *numbers, one.actor, one.cause, encode(one.event), one.digest
    )


def decode_all(rows: Iterable[StoredRow], after: int) -> list[Envelope]:
    """Consecutive rows, the first of them next to `after`. Raises BadEvent for a gap or what cannot be read."""
    envelopes = []
    for row in rows:
        after += 1
        if row[0] != after:
            raise BadEvent(after, "the event is missing")
        envelopes.append(decode(row))
    return envelopes


def _utf8(what: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeError as error:
        raise Unwritable(f"{what} {text!r}", str(error)) from error


def _join(stream: bytes, kind: bytes, actor: bytes, cause: bytes, data: bytes) -> bytes:
    # Spelled out: this runs for every event that is written or verified, and a loop takes twice as long.
    return b"".join(
        (
            _LENGTH(len(stream)),
            stream,
            _LENGTH(len(kind)),
            kind,
            _LENGTH(len(actor)),
            actor,
            _LENGTH(len(cause)),
            cause,
            _LENGTH(len(data)),
            data,
        )
    )


def _digest(previous: bytes, numbers: bytes, texts: bytes) -> bytes:
    return blake2b(previous + numbers + texts, digest_size=DIGEST_BYTES).digest()
