"""Consistent hashing: a table that sends nearly every client to where it was sent before, when a backend comes or goes.

Tables are those of Cilium, bit for bit, for the same backends, seed and size.
"""

from array import array
from base64 import b64decode
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from cplane.domain.service import shown

SIZE: Final = 16_381
SEED: Final = "JLfvgnHc2kaSUFaI"
_MASK: Final = (1 << 64) - 1
_C1: Final = 0x87C37B91114253D5
_C2: Final = 0x4CF5AD432745937F
_BLOCK: Final = 16


class Seed(NamedTuple):
    """What keeps clients from guessing where they end: of the hash of backends, and of that of packets."""

    murmur: int
    jhash0: int
    jhash1: int


def parse_seed(text: str) -> Seed:
    """The seed that base64 of twelve bytes says. Raises ValueError."""
    raw = b64decode(text, validate=True)
    if len(raw) != 3 * 4:
        raise ValueError(f"the seed {text!r} is not base64 of 12 bytes")
    return Seed(*(int.from_bytes(raw[at : at + 4], "big") for at in (0, 4, 8)))


def text_of(address: str, port: int, protocol: str) -> str:
    """What is hashed of a backend."""
    return f"[{shown(address, port, protocol)},State:active]"


def table(backends: Sequence[tuple[int, str, int]], size: int, seed: int) -> bytes:
    """`size` numbers of backends as little-endian u32; none for no backends.

    Each of `backends` is (number, text_of it, weight).
    """
    if not backends:
        return b""
    ordered = sorted(backends, key=lambda one: one[1])
    count = len(ordered)
    places = [_place(text, size, seed) for _, text, _ in ordered]
    weights = [weight for _, _, weight in ordered]
    filled = array("I", bytes(4 * size))
    turns = _even(count) if sum(weights) // count <= 1 else _weighted(weights)
    taken = bytearray(size)
    cursors = [offset for offset, _ in places]
    skips = [skip for _, skip in places]
    numbers = [number for number, _, _ in ordered]
    for _ in range(size):
        index = next(turns)
        at, skip = cursors[index], skips[index]
        while taken[at]:
            at += skip
            if at >= size:
                at -= size
        taken[at] = 1
        filled[at] = numbers[index]
        at += skip
        cursors[index] = at - size if at >= size else at
    return filled.tobytes()


def _even(count: int) -> Iterator[int]:
    """Whose turn it is, one after another."""
    while True:
        yield from range(count)


def _weighted(weights: Sequence[int]) -> Iterator[int]:
    """Whose turn it is where some have it more often: a backend waits until its weight has made up for its turns."""
    count, total = len(weights), sum(weights)
    due = [weight // count for weight in weights]
    turn = 0
    while True:
        index = turn % count
        turn += 1
        while turn * weights[index] < due[index]:
            index = (index + 1) % count
        due[index] += total
        yield index


@lru_cache(maxsize=8_192)
def _place(text: str, size: int, seed: int) -> tuple[int, int]:
    """Where a backend begins to look for a free place, and how far it goes on from each that is taken."""
    first, second = _murmur3(text.encode(), seed)
    return first % size, second % (size - 1) + 1


def _murmur3(data: bytes, seed: int) -> tuple[int, int]:
    """MurmurHash3, x64, 128 bits, by its published description."""
    first = second = seed
    whole = len(data) // _BLOCK * _BLOCK
    for at in range(0, whole, _BLOCK):
        first ^= _mixed(int.from_bytes(data[at : at + 8], "little"), _C1, 31, _C2)
        first = ((_rotated(first, 27) + second) * 5 + 0x52DCE729) & _MASK
        second ^= _mixed(int.from_bytes(data[at + 8 : at + 16], "little"), _C2, 33, _C1)
        second = ((_rotated(second, 31) + first) * 5 + 0x38495AB5) & _MASK
    rest = data[whole:]
    second ^= _mixed(int.from_bytes(rest[8:], "little"), _C2, 33, _C1)
    first ^= _mixed(int.from_bytes(rest[:8], "little"), _C1, 31, _C2)
    first, second = first ^ len(data), second ^ len(data)
    first = (first + second) & _MASK
    second = (second + first) & _MASK
    first, second = _finished(first), _finished(second)
    first = (first + second) & _MASK
    return first, (second + first) & _MASK


def _mixed(block: int, before: int, bits: int, after: int) -> int:
    return _rotated(block * before & _MASK, bits) * after & _MASK


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> 64 - bits) & _MASK


def _finished(value: int) -> int:
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & _MASK
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return value ^ value >> 33
