"""What a log said at a position, to be kept elsewhere: who holds it can tell later whether the past is still the same.

A checkpoint is text, one field on each line, in this order and with one space behind each name:

    cplane-checkpoint 1
    cluster NAME
    node NAME
    position NUMBER
    digest HEX
    recorded-at-ns NUMBER
    signature ed25519 PUBLIC-KEY SIGNATURE

The last line is there when it is signed, and has 32 and 64 bytes in hexadecimal; what is signed are the bytes of all
lines before it, in UTF-8, with their line ends. The digest of a position stands for every event up to it (`codec`).
"""

import re
from typing import Final

import msgspec

from cplane.errors import Rejected
from cplane.timetravel.history import History, NoSuchMoment

_NAME: Final = r"[^\s\x00-\x1f\x7f]*"
_TEXT: Final = re.compile(
    rf"(cplane-checkpoint 1\ncluster ({_NAME})\nnode ({_NAME})\nposition (\d{{1,18}})\ndigest ([0-9a-f]{{64}})\n"
    r"recorded-at-ns (-?\d{1,19})\n)(?:signature ed25519 ([0-9a-f]{64}) ([0-9a-f]{128})\n)?",
    re.ASCII,
)


class BadCheckpoint(Rejected):
    """A text is no checkpoint."""

    code = "history.bad_checkpoint"

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __str__(self) -> str:
        return f"this is no checkpoint of cplane: {self.reason}; write one with `cplane log checkpoint`"


class Checkpoint(msgspec.Struct, frozen=True):
    """The log of this node at a position; `digest` is in hexadecimal, `cluster` and `node` empty before it joined."""

    cluster: str
    node: str
    position: int
    digest: str
    recorded_at_ns: int

    def text(self) -> str:
        """All lines but for the signature: what is signed."""
        return (
            f"cplane-checkpoint 1\ncluster {self.cluster}\nnode {self.node}\nposition {self.position}\n"
            f"digest {self.digest}\nrecorded-at-ns {self.recorded_at_ns}\n"
        )


class Signature(msgspec.Struct, frozen=True):
    """Who signed it, and how: the public key and the signature of ed25519."""

    key: bytes
    signature: bytes

    def line(self) -> str:
        """The last line of a signed checkpoint."""
        return f"signature ed25519 {self.key.hex()} {self.signature.hex()}\n"


def checkpoint(history: History, now_ns: int, *, at: str = "head") -> Checkpoint:
    """The log at that moment. Raises NoSuchMoment."""
    position = history.position_of(at, now_ns)
    if not position:
        raise NoSuchMoment("there is nothing to keep of a log at position 0: it has no event there")
    if position == history.start:
        raise NoSuchMoment(f"position {position} was dropped from the log, which begins behind it")
    entry = history.entry(position)
    joined = history.ledger(position).joined
    cluster, node = (joined.cluster, joined.name) if joined is not None else ("", "")
    return Checkpoint(cluster, node, position, entry.digest.hex(), entry.recorded_at_ns)


def read_checkpoint(text: str) -> tuple[Checkpoint, Signature | None]:
    """What the text says, and its signature, which nobody has checked yet. Raises BadCheckpoint."""
    found = _TEXT.fullmatch(text)
    if found is None:
        first, _, _ = text.partition("\n")
        reason = (
            "a line is missing, or was changed" if first == "cplane-checkpoint 1" else f"it begins with {first!r:.60}"
        )
        raise BadCheckpoint(reason)
    _, cluster, node, position, digest, recorded_at_ns, key, signature = found.groups()
    made = Checkpoint(cluster, node, int(position), digest, int(recorded_at_ns))
    if made.text() != found[1]:
        raise BadCheckpoint("a number is written in another way than it should be")
    return made, Signature(bytes.fromhex(key), bytes.fromhex(signature)) if key else None
