"""Flows that count alike: the rows of a span in groups, each with what its metrics depend on."""

from collections.abc import Callable, Collection, Hashable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cplane.hubble.endpoint import EndpointMeta
from cplane.hubble.flow import PORTS
from cplane.hubble.interned import Interned
from cplane.hubble.ring import Reply, Span

_SMALL: Final = (
    "type",
    "subtype",
    "verdict",
    "reason",
    "direction",
    "reply",
    "ip_version",
    "match_type",
    "protocol",
    "tcp_flags",
    "icmp_type",
    "icmp_code",
)
ENDS: Final = ("src_meta", "dst_meta")
ADDRESSES: Final = ("src_hi", "src_lo", "dst_hi", "dst_lo")
SERVER_PORT: Final = "dport"
_WORD: Final = 8
_NARROW: Final = np.dtype(
    [
        *((name, "u1") for name in _SMALL),
        (SERVER_PORT, "u2"),
        ("pad", "u2"),
        *((name, "u4") for name in ENDS),
    ]
)
_WIDE: Final = np.dtype([*((name, _NARROW[name]) for name in _NARROW.names or ()), *((n, "u8") for n in ADDRESSES)])
# odd numbers with well-spread bits, to make one number of a group
_MIX: Final = tuple(
    np.uint64(n)
    for n in (
        0x9E3779B97F4A7C15,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0x27D4EB2F165667C5,
        0xD6E8FEB86659FD93,
        0xA0761D6478BD642F,
        0xE7037ED1A0B428DB,
    )
)

assert _NARROW.itemsize == 3 * _WORD and _WIDE.itemsize == len(_MIX) * _WORD, "whole words"


class Kind(NamedTuple):
    """What a group's flows have in common; 0 in a column that no metric looks at.

    `dport` is that of the side that was called: 0 in replies.
    """

    type: int
    subtype: int
    verdict: int
    reason: int
    direction: int
    reply: int
    ip_version: int
    match_type: int
    protocol: int
    tcp_flags: int
    icmp_type: int
    icmp_code: int
    dport: int
    pad: int
    src_meta: int
    dst_meta: int
    src_hi: int = 0
    src_lo: int = 0
    dst_hi: int = 0
    dst_lo: int = 0


assert Kind._fields == _WIDE.names


class Representatives:
    """For each endpoint the first one that looks the same to all metrics, so that few different ones are left."""

    def __init__(self, endpoints: Interned[EndpointMeta], look: Callable[[EndpointMeta], Hashable]) -> None:
        self._endpoints, self._look = endpoints, look
        self._generation = endpoints.generation
        self._forget()

    def _forget(self) -> None:
        self._first: dict[Hashable, int] = {}
        self._known = np.zeros(0, np.uint32)

    def of(self, numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """Who stands for each of the numbers."""
        if self._generation != self._endpoints.generation:
            self._generation = self._endpoints.generation
            self._forget()
        have = len(self._known)
        if have < len(self._endpoints):
            first, look = self._first, self._look
            more = [first.setdefault(look(m), have + n) for n, m in enumerate(self._endpoints.values_from(have))]
            self._known = np.concatenate((self._known, np.array(more, np.uint32)))
        return self._known[numbers]


class Grouping:
    """Groups the rows of spans by some of their columns; of endpoints by those that stand for them, where given."""

    def __init__(
        self, columns: Collection[str], representatives: Mapping[str, Representatives] = MappingProxyType({})
    ) -> None:
        self._representatives = representatives
        self._dtype = _WIDE if any(name in columns for name in ADDRESSES) else _NARROW
        # always there: they decide what is read of the others
        wanted = {"type", "verdict", *columns}
        self._copied = tuple(n for n in self._dtype.names or () if n in wanted and n != SERVER_PORT)
        self._ports = SERVER_PORT in columns

    def groups(self, span: Span) -> tuple[list[bytes], npt.NDArray[np.intp]]:
        """The bytes of the kinds (for `kind`), and how many rows have each. A kind may be there more than once."""
        count = len(span)
        rows = np.zeros(count, self._dtype)
        for name in self._copied:
            stand_ins = self._representatives.get(name)
            rows[name] = span[name] if stand_ins is None else stand_ins.of(span[name])
        if self._ports:
            rows[SERVER_PORT] = np.where(_called(span), span["dport"], 0)
        words = rows.view(np.uint64).reshape(count, -1)
        # Sorting by one mixed number is several times faster than by rows. Where different rows share it they may
        # stand between each other, and their groups are counted in parts.
        order = np.argsort(_mixed(words))
        sorted_words = words[order]
        changes = np.flatnonzero((sorted_words[1:] != sorted_words[:-1]).any(axis=1)) + 1
        starts = np.concatenate((np.zeros(1, np.intp), changes))
        counts = np.diff(np.append(starts, count))
        kinds: list[bytes] = rows[order[starts]].view(f"V{self._dtype.itemsize}").tolist()
        return kinds, counts

    def kind(self, data: bytes) -> Kind:
        """The kind behind the bytes of a group."""
        return Kind(*np.frombuffer(data, self._dtype)[0].item())


def _mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    mixed: npt.NDArray[np.uint64] = words[:, 0] * _MIX[0]
    for number in range(1, words.shape[1]):
        mixed ^= mixed >> np.uint64(29)
        mixed += words[:, number] * _MIX[number]
    return mixed


_PORTED: Final = np.zeros(256, np.bool_)
_PORTED[list(PORTS)] = True


def _called(span: Span) -> npt.NDArray[np.bool_]:
    """Rows whose destination port is that of the side that was called, as far as that is known."""
    found: npt.NDArray[np.bool_] = (span["reply"] != Reply.YES) & _PORTED[span["protocol"]]
    return found
