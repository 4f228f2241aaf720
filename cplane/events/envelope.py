"""What the log knows about an event besides its content."""

from typing import Final, NamedTuple, NewType

import msgspec

from cplane.events.catalog import Event

StreamId = NewType("StreamId", str)

NODE: Final = StreamId("node")
IPAM: Final = StreamId("ipam")
IDENTITY: Final = StreamId("identity")
ENDPOINT: Final = StreamId("endpoint")
POLICY: Final = StreamId("policy")
CONFIG: Final = StreamId("config")
SERVICE: Final = StreamId("service")
FQDN: Final = StreamId("fqdn")


class Proposed(msgspec.Struct, frozen=True, kw_only=True):
    """Events that must enter the log together or not at all.

    `expected` maps each stream that `events` touch to the version it had when they were decided (0: empty).
    `actor` is who asked: `uid:0(root)`, `agent`, `cni`…; `cause` is the request or the position that led here.
    """

    events: tuple[tuple[StreamId, Event], ...]
    expected: dict[StreamId, int]
    actor: str
    cause: str = ""


class Envelope(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One row of the log. `position` starts at 1 and has no gaps; `version` counts within the stream, from 1."""

    position: int
    stream: StreamId
    version: int
    recorded_at_ns: int  # UTC, nanoseconds since the epoch, by the recorder's clock
    actor: str
    cause: str
    event: Event
    digest: bytes  # blake2b-256(previous digest ‖ canonical bytes of this row)


class Stored(NamedTuple):
    """An event as it stands in the log: type and schema are those that it was written with, `data` its very bytes."""

    position: int
    stream: str
    version: int
    type: str
    schema: int
    recorded_at_ns: int
    actor: str
    cause: str
    data: bytes
    digest: bytes
