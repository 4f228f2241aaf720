"""Consistent hashing: a table that sends nearly every client to where it was sent before, when a backend comes or goes.

Tables are those of Cilium, bit for bit, for the same backends, seed and size.
"""

import struct
from base64 import b64decode
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import cycle, islice
from math import isqrt
from operator import itemgetter
from typing import Final, NamedTuple

from cplane.domain.service import SEED_BYTES, shown

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
    if len(raw) != SEED_BYTES:
        raise ValueError(f"the seed {text!r} is not base64 of 12 bytes")
    return Seed(*(int.from_bytes(raw[at : at + 4], "big") for at in (0, 4, 8)))


def text_of(address: str, port: int, protocol: str) -> str:
    """What is hashed of a backend."""
    return f"[{shown(address, port, protocol)},State:active]"


def table(backends: Sequence[tuple[int, str, int]], size: int, seed: int) -> bytes:
    """`size` numbers of backends as little-endian u32; none for no backends.

    Each of `backends` is (number, text_of it, weight); `size` is a prime of MAGLEV_SIZES.
    """
    if not backends:
        return b""
    ordered = sorted(backends, key=itemgetter(1))
    weights = [weight for _, _, weight in ordered]
    places = [place(text, size, seed) for _, text, _ in ordered]
    numbers = [number for number, _, _ in ordered]
    entries: list[int | None] = [None] * size
    takers = [_taker(entries, number, at, skip) for number, (at, skip) in zip(numbers, places, strict=True)]
    # Who seeks a free entry passes nearly all of them when few are free: these are given out another way.
    last = isqrt(size) // 2
    turns: Iterator[int]
    if sum(weights) // len(weights) <= 1 or len(set(weights)) == 1:
        turns = cycle(range(len(takers)))
        rounds, rest = divmod(size - last, len(takers))
        _exhaust(islice(zip(*takers, strict=True), rounds))
        _exhaust(map(next, map(takers.__getitem__, islice(turns, rest))))
    else:
        turns = _weighted(weights)
        _exhaust(map(next, map(takers.__getitem__, islice(turns, size - last))))
    _give_last(entries, numbers, places, turns)
    return struct.pack(f"<{size}I", *entries)


def _exhaust(steps: Iterable[object]) -> None:
    deque(steps, maxlen=0)


def _taker(entries: list[int | None], number: int, at: int, skip: int) -> Iterator[None]:
    """Takes one more entry for a backend with each step: the next free one on its way through the table."""
    size = len(entries)
    while True:
        while entries[at] is not None:
            at += skip
            if at >= size:
                at -= size
        entries[at] = number
        yield


def _give_last(
    entries: list[int | None], numbers: Sequence[int], places: Sequence[tuple[int, int]], turns: Iterator[int]
) -> None:
    """Fills the few entries that are free: each backend knows at which step of its way it would come to them."""
    size = len(entries)
    free = [at for at, number in enumerate(entries) if number is None]
    # Step n of a way is at first + n * skip, so an entry is reached at step (entry - first) / skip, all modulo `size`.
    ways = [(inverse := pow(skip, -1, size), first * inverse % size) for first, skip in places]
    while free:
        index = next(turns)
        inverse, start = ways[index]
        steps = [(at * inverse - start) % size for at in free]
        entries[free.pop(steps.index(min(steps)))] = numbers[index]


def _weighted(weights: Sequence[int]) -> Iterator[int]:
    """Whose turn it is where some have it more often: a backend waits until its weight has made up for its turns.

    With equal weights that is one after another.
    """
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
def place(text: str, size: int, seed: int) -> tuple[int, int]:
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
