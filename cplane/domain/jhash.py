"""Jenkins' hash, as programs in the kernel compute it: which entry of a Maglev table a packet goes by."""

from typing import Final

_MASK: Final = 0xFFFF_FFFF
_START: Final = 0xDEAD_BEEF
_BLOCK: Final = 12

Words = tuple[int, int, int]


def jhash(data: bytes, seed: int) -> int:
    """The hash of bytes, by its published description (lookup3)."""
    start = _START + len(data) + seed & _MASK
    words = (start, start, start)
    while len(data) > _BLOCK:
        words = mixed(_sum(words, _words(data[:_BLOCK])))
        data = data[_BLOCK:]
    return finished(_sum(words, _words(data))) if data else words[2]


def jhash_3words(first: int, second: int, third: int, seed: int) -> int:
    """The hash of three numbers of 32 bits."""
    start = _START + _BLOCK + seed & _MASK
    return finished(_sum((start, start, start), (first, second, third)))


def flow_hash(source: bytes, source_port: int, port: int, protocol: int, seed: int) -> int:
    """The hash of a packet from `source` (4 or 16 bytes) to a service; its destination address is not looked at.

    Numbers are those that a little-endian processor loads from the packet; the address of IPv6 is mixed in first.
    Where clients stay with their backend, `source_port` is 0. Source: Cilium's bpf/lib/hash.h, and how lb.h calls it
    since there is affinity in it (older versions had the ports the other way round).
    """
    ports = _as_loaded(port) << 16 | _as_loaded(source_port)
    if len(source) == 4:
        return jhash_3words(int.from_bytes(source, "little"), ports, protocol, seed)
    words = mixed(_words(source[:_BLOCK]))
    words = mixed(_sum(words, (int.from_bytes(source[_BLOCK:], "little"), ports, protocol)))
    return finished(_sum(words, (seed, 0, 0)))


def mixed(words: Words) -> Words:
    """Three words after a block, each of which depends on all of them."""
    a, b, c = words
    for bits in (4, 6, 8, 16, 19, 4):
        a = (a - c & _MASK) ^ _rotated(c, bits)
        c = c + b & _MASK
        a, b, c = b, c, a
    return a, b, c


def finished(words: Words) -> int:
    """The hash that three words end in."""
    a, b, c = words
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - _rotated(b, bits) & _MASK
        a, b, c = b, c, a
    return b


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> 32 - bits) & _MASK


def _words(data: bytes) -> Words:
    """Up to twelve bytes as little-endian words; what is missing is zero."""
    return (
        int.from_bytes(data[:4], "little"),
        int.from_bytes(data[4:8], "little"),
        int.from_bytes(data[8:], "little"),
    )


def _sum(words: Words, others: Words) -> Words:
    return words[0] + others[0] & _MASK, words[1] + others[1] & _MASK, words[2] + others[2] & _MASK


def _as_loaded(port: int) -> int:
    return int.from_bytes(port.to_bytes(2, "big"), "little")
