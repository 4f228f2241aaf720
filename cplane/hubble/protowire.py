"""Fields of protobuf messages, as bytes: for messages that are put together faster than the library does it."""

from typing import Final

_SHORT_MAX: Final = 1 << 14


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SHORT: Final = tuple(map(_varint, range(_SHORT_MAX)))


def varint(value: int) -> bytes:
    """The shortest encoding."""
    if value < len(_SHORT):
        return _SHORT[value]
    if 1 << 14 <= value < 1 << 21:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    if 1 << 21 <= value < 1 << 28:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14 & 0x7F | 0x80, value >> 21))
    return _varint(value)


def tag(number: int, wire_type: int = 2) -> bytes:
    """What stands before the field of that number."""
    return varint(number << 3 | wire_type)


def sized(data: bytes) -> bytes:
    """The content of a field of bytes, of text or of a message: its length, and what it is."""
    return varint(len(data)) + data
