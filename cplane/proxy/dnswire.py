r"""DNS messages, as far as a proxy has to understand them: which name is asked for, and which addresses are answered.

Names are given as they are compared: in lower case, with a dot at the end. A byte that is none of a host name's, a dot
within a label above all, is written `\DDD`, so that no rule takes it for something else. Source: RFC 1035 section 4,
RFC 6891 for OPT.
"""

import struct
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Final, NamedTuple

from cplane.errors import Rejected

QUERY_MAX: Final = 4096
"""Bytes of a question; they are rarely more than a hundred."""
MESSAGE_MAX: Final = 65535
DATAGRAM_MAX: Final = 1232
"""Bytes of an answer over UDP that arrives in one packet wherever IPv6 does."""

NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5
A, CNAME, AAAA, OPT = 1, 5, 28, 41
_TYPES: Final = {
    1: "A",
    2: "NS",
    5: "CNAME",
    6: "SOA",
    12: "PTR",
    13: "HINFO",
    15: "MX",
    16: "TXT",
    28: "AAAA",
    29: "LOC",
    33: "SRV",
    35: "NAPTR",
    39: "DNAME",
    41: "OPT",
    43: "DS",
    44: "SSHFP",
    46: "RRSIG",
    47: "NSEC",
    48: "DNSKEY",
    50: "NSEC3",
    52: "TLSA",
    64: "SVCB",
    65: "HTTPS",
    99: "SPF",
    251: "IXFR",
    252: "AXFR",
    255: "ANY",
    256: "URI",
    257: "CAA",
}
_HEAD: Final = 12
_NAME_MAX: Final = 255
_TTL_MAX: Final = 0x7FFFFFFF  # RFC 2181 section 8
_LABEL_MAX: Final = 63
_POINTER: Final = 0xC0
_TO_QUESTION: Final = bytes([_POINTER, _HEAD])
_RESPONSE, _OPCODE, _TRUNCATED, _DESIRED, _AVAILABLE = 0x8000, 0x7800, 0x0200, 0x0100, 0x0080
_OPT_RECORD: Final = b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00"  # 4,096 bytes, version 0, nothing else
_COUNTS: Final = struct.Struct(">6H")
_PAIR: Final = struct.Struct(">2H")
_RECORD: Final = struct.Struct(">2HIH")
_PLAIN: Final = frozenset(b"-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_ADDRESS_BYTES: Final = {A: 4, AAAA: 16}


class BadMessage(Rejected):
    """It is no DNS message, or none that a server would understand as we do. `answerable`: it may be refused."""

    code = "proxy.bad_message"

    def __init__(self, reason: str, *, answerable: bool = False) -> None:
        self.reason, self.answerable = reason, answerable

    def __str__(self) -> str:
        return f"this is not a DNS message that can be served: {self.reason}"


class Query(NamedTuple):
    """One question. `section` is its bytes, the name in lower case, by which an answer is known to be one to it."""

    name: str
    qtypes: tuple[str, ...]
    section: bytes


class Answer(NamedTuple):
    """What was answered. `ips` are addresses of the name, or of what it is an alias of; `ttl` the least on the way.

    `rrtypes` are the types of all records, each once. `malformed`: records that could not be read, or are cut off.
    """

    rcode: int
    ips: tuple[str, ...] = ()
    ttl: int = 0
    cnames: tuple[str, ...] = ()
    rrtypes: tuple[str, ...] = ()
    malformed: bool = False


def type_name(number: int) -> str:
    """As people write it; `TYPE65280` for one without a name (RFC 3597)."""
    return _TYPES.get(number) or f"TYPE{number}"


def read_query(data: bytes) -> Query:
    """The question of a message. Raises BadMessage for anything but one standard question that is written plainly."""
    if len(data) < _HEAD:
        raise BadMessage("it is too short")
    _, flags, questions = _COUNTS.unpack_from(data)[:3]
    if flags & _RESPONSE:
        raise BadMessage("it is an answer")
    if len(data) > QUERY_MAX:
        raise BadMessage("it is too long", answerable=True)
    if flags & _OPCODE:
        raise BadMessage("it asks for something else than a name", answerable=True)
    if questions != 1:
        raise BadMessage(f"it has {questions} questions", answerable=True)
    labels, at = _plain_name(data)
    if at + _PAIR.size > len(data):
        raise BadMessage("the question is cut off")
    qtypes = (type_name(int.from_bytes(data[at : at + 2])),)
    return Query(_text(labels), qtypes, data[_HEAD:at].lower() + data[at : at + _PAIR.size])


def read_answer(data: bytes, query: Query, number: int) -> Answer:
    """What the message answers to the query, which was asked under this number. Raises BadMessage if it is another's.

    One about no question at all is taken as an answer only if it says nothing but an error.
    """
    if len(data) < _HEAD:
        raise BadMessage("it is too short")
    given, flags, questions, answers = _COUNTS.unpack_from(data)[:4]
    rcode = flags & 0xF
    if given != number or not flags & _RESPONSE or flags & _OPCODE:
        raise BadMessage("it answers another query")
    if questions == 0 and rcode and not answers:
        return Answer(rcode)
    end = _HEAD + len(query.section)
    named = end - _PAIR.size
    if questions != 1 or data[_HEAD:named].lower() + data[named:end] != query.section:
        raise BadMessage("it answers another question")
    try:
        return _read_records(data, end, answers, query, rcode)
    except BadMessage:
        return Answer(rcode, malformed=True)


def _read_records(data: bytes, at: int, count: int, query: Query, rcode: int) -> Answer:
    aliases: dict[str, tuple[str, int]] = {}  # what a name is an alias of, and for how long
    addresses: dict[str, list[tuple[str, int]]] = {}
    kinds: dict[int, None] = {}
    for _ in range(count):
        if data[at : at + 2] == _TO_QUESTION:  # nearly always, and ten times as fast
            owner, at = query.name, at + 2
        else:
            owner, at = _name(data, at)
        if at + _RECORD.size > len(data):
            raise BadMessage("a record is cut off")
        kind, _, lifetime, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if at + length > len(data):
            raise BadMessage("a record is cut off")
        kinds[kind] = None
        if kind == CNAME:
            aliases.setdefault(owner, (_name(data, at)[0], lifetime))
        elif length == _ADDRESS_BYTES.get(kind):
            text = inet_ntop(AF_INET if kind == A else AF_INET6, data[at : at + length])
            addresses.setdefault(owner, []).append((text, lifetime))
        at += length
    cnames, ttls, name = [], [], query.name
    while name in aliases:  # in any order, and not for ever
        name, lifetime = aliases.pop(name)
        cnames.append(name)
        ttls.append(lifetime)
    found = addresses.get(name, ())
    ttls += [lifetime for _, lifetime in found]
    ips = tuple(dict.fromkeys(text for text, _ in found))
    return Answer(rcode, ips, min((*ttls, _TTL_MAX)) if ttls else 0, tuple(cnames), tuple(map(type_name, kinds)))


def refusal(data: bytes, rcode: int, query: Query | None = None) -> bytes:
    """The answer that there is none; `data` is the message that asked. Without a `query` it repeats no question."""
    flags = int.from_bytes(data[2:4])
    said = _RESPONSE | _AVAILABLE | flags & (_OPCODE | _DESIRED) | rcode
    section = data[_HEAD : _HEAD + len(query.section)] if query is not None else b""
    extra = _OPT_RECORD if query is not None and _has_opt(data, _HEAD + len(section)) else b""
    head = _COUNTS.pack(int.from_bytes(data[:2]), said, bool(section), 0, 0, bool(extra))
    return head + section + extra


def id_of(data: bytes) -> int:
    """The number of a message, by which who asked knows its answer."""
    return int.from_bytes(data[:2])


def with_id(data: bytes, number: int) -> bytes:
    """The same message under another number."""
    return number.to_bytes(2) + data[2:]


def in_one_packet(data: bytes, query: Query) -> bytes:
    """The same question, whose answer over UDP comes in one packet, or says that it has to be asked for over TCP.

    Later pieces of a datagram have no ports, so the datapath hands none to a proxy. A question that has more than OPT
    stays as it is: it may be signed.
    """
    at = _HEAD + len(query.section)
    if not _has_opt(data, at) or data[_HEAD - 1] != 1 or int.from_bytes(data[at + 3 : at + 5]) <= DATAGRAM_MAX:
        return data
    return data[: at + 3] + DATAGRAM_MAX.to_bytes(2) + data[at + 5 :]


def is_truncated(data: bytes) -> bool:
    """Whether the message says that it is not all."""
    return len(data) >= _HEAD and bool(data[2] & _TRUNCATED >> 8)


def _has_opt(data: bytes, at: int) -> bool:
    """Whether a query, which has no other records before it, tells what it understands (RFC 6891)."""
    answers, authorities, extra = _COUNTS.unpack_from(data)[3:]
    return not answers and not authorities and extra > 0 and data[at : at + 3] == _OPT_RECORD[:3]


def _plain_name(data: bytes) -> tuple[list[bytes], int]:
    """The labels of the name behind the head, and where it ends. Nobody abbreviates the first name of a message."""
    labels: list[bytes] = []
    at = _HEAD
    while True:
        if at >= len(data):
            raise BadMessage("the name is cut off")
        length = data[at]
        at += 1
        if not length:
            return labels, at
        if length > _LABEL_MAX:
            raise BadMessage("the name asked for is abbreviated")
        labels.append(data[at : at + length])
        at += length
        if at - _HEAD > _NAME_MAX - 1:
            raise BadMessage("the name is too long")


def _name(data: bytes, at: int) -> tuple[str, int]:
    """A name, which may point backwards (RFC 1035 section 4.1.4), and where it ends."""
    labels: list[bytes] = []
    end, lowest, size = -1, at, 0
    while True:
        if at >= len(data):
            raise BadMessage("a name is cut off")
        length = data[at]
        if length >= _POINTER:
            if at + 2 > len(data):
                raise BadMessage("a name is cut off")
            end = at + 2 if end < 0 else end
            at = (length & ~_POINTER) << 8 | data[at + 1]
            if at >= lowest:  # so it ends
                raise BadMessage("a name points forwards")
            lowest = at
            continue
        if length > _LABEL_MAX:
            raise BadMessage("a label is of no kind that there is")
        at += 1
        if not length:
            return _text(labels), at if end < 0 else end
        size += length + 1
        if size > _NAME_MAX - 1:
            raise BadMessage("a name is too long")
        labels.append(data[at : at + length])
        at += length


def _text(labels: list[bytes]) -> str:
    joined = b"".join(labels)
    if _PLAIN.issuperset(joined):
        return (b".".join(labels) + b".").decode("ascii").lower()
    return "".join(f"{''.join(map(_shown, label))}." for label in labels).lower() or "."


def _shown(byte: int) -> str:
    return chr(byte) if byte in _PLAIN else f"\\{byte:03}"
