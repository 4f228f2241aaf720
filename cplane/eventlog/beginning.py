"""What a log begins with when its older past was dropped: the state at that position, and the digest of the log there.

The file is `magic ‖ blake2b-256 of the rest ‖ rest`; the rest is a `Beginning` as msgpack in a zstd frame.
"""

from hashlib import blake2b
from typing import Final

import msgspec
import zstandard

from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import DIGEST_BYTES
from cplane.eventlog.errors import BadEvent, StorageFailed
from cplane.timetravel.ledger import Ledger

MAGIC: Final = b"cplaneB1"  # with the version of the format
_LEVEL: Final = 9
_BYTES_MAX: Final = 1 << 30


class Beginning(msgspec.Struct, frozen=True):
    """The log at a position: its digest, the version of each stream, when that was recorded, and a dumped ledger."""

    position: int
    digest: bytes
    versions: dict[str, int]
    recorded_at_ns: int
    state: bytes

    def chain(self) -> Chain:
        """Where the log begins."""
        return Chain(self.position, self.digest, dict(self.versions))

    def ledger(self) -> Ledger:
        """What was so there, for the caller to keep."""
        return Ledger.load(self.state)


def beginning_bytes(beginning: Beginning) -> bytes:
    """What its file has."""
    rest = zstandard.ZstdCompressor(level=_LEVEL).compress(msgspec.msgpack.encode(beginning))
    return MAGIC + blake2b(rest, digest_size=DIGEST_BYTES).digest() + rest


def beginning_of(data: bytes) -> Beginning:
    """What a file with these bytes has. Raises ValueError, which says why they are not such a file."""
    digest, rest = data[len(MAGIC) : len(MAGIC) + DIGEST_BYTES], data[len(MAGIC) + DIGEST_BYTES :]
    if not data.startswith(MAGIC) or blake2b(rest, digest_size=DIGEST_BYTES).digest() != digest:
        raise ValueError("it was changed or cut")
    try:
        beginning = msgspec.msgpack.decode(
            zstandard.ZstdDecompressor().decompress(rest, max_output_size=_BYTES_MAX), type=Beginning
        )
        ledger = beginning.ledger()
    except (zstandard.ZstdError, ValueError) as error:
        raise ValueError(f"it cannot be read ({error})") from error
    if beginning.position != ledger.position:
        raise ValueError(f"it has the state of position {ledger.position}, and is of {beginning.position}")
    return beginning


def read_beginning(path: str, position: int) -> Beginning:
    """What the file has, which is of that position by its name. Raises BadEvent, StorageFailed."""
    try:
        with open(path, "rb") as file:
            beginning = beginning_of(file.read())
    except OSError as error:
        raise StorageFailed(path, f"cannot read it: {error.strerror}") from error
    except ValueError as error:
        raise BadEvent(position, f"the beginning {path} is damaged: {error}") from error
    if position != beginning.position:
        raise BadEvent(position, f"the beginning {path} is one of position {beginning.position}")
    return beginning
