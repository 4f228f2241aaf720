"""Prefix algebra: reading prefixes strictly, and finding those that contain or lie within another.

All of it works on IPv4 and IPv6; a prefix never contains one of the other family.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, Generic, TypeVar

Prefix = IPv4Network | IPv6Network
T = TypeVar("T")
_Entry = tuple[int, int]  # network address as a number, prefix length

TEXT_MAX: Final = 64  # characters of an address or prefix; the longest that there is has 49


def parse_prefix(text: str) -> Prefix:
    """The prefix that `text` (`address/length`) names; host bits are dropped.

    Raises ValueError with what is wrong: no length, one that is too long, a netmask in place of it, a zone, or not an
    address.
    """
    _check_length(text)
    address, slash, length = text.partition("/")
    if not slash:
        raise ValueError("it has no prefix length")
    if not (length.isascii() and length.isdigit()) or (len(length) > 1 and length[0] == "0"):
        raise ValueError(f"the prefix length {length!r} is not a plain number")
    if "%" in address:
        raise ValueError("a prefix has no zone")
    found = ip_address(address)
    if int(length) > found.max_prefixlen:
        raise ValueError(f"the prefix length {length} is more than {found.max_prefixlen}")
    return ip_network((found, int(length)), strict=False)


def parse_prefix_or_address(text: str) -> Prefix:
    """As parse_prefix; an address alone is the prefix of that one address."""
    _check_length(text)
    if "/" in text:
        return parse_prefix(text)
    if "%" in text:
        raise ValueError("an address of a policy has no zone")
    return ip_network(ip_address(text))


def _check_length(text: str) -> None:
    if len(text) > TEXT_MAX:
        raise ValueError(f"it has {len(text)} characters, no address has more than {TEXT_MAX}")


def contains(outer: Prefix, inner: Prefix) -> bool:
    """Whether every address of `inner` is one of `outer`; a prefix contains itself."""
    if outer.version != inner.version or outer.prefixlen > inner.prefixlen:
        return False
    unmatched = outer.max_prefixlen - outer.prefixlen
    return int(inner.network_address) >> unmatched == int(outer.network_address) >> unmatched


def cidr_key(prefix: Prefix) -> str:
    """The prefix as a label's key: in IPv6 every `:` is written `-`, with a 0 where the text would begin or end so."""
    text = str(prefix.network_address)
    if prefix.version == 6:
        text = text.replace(":", "-")
        text = f"0{text}" if text.startswith("-") else text
        text = f"{text}0" if text.endswith("-") else text
    return f"{text}/{prefix.prefixlen}"


def cidr_of_key(key: str) -> Prefix | None:
    """The prefix that a label's key names; None where it names none."""
    address, _, length = key.partition("/")
    try:
        return ip_network(f"{address.replace('-', ':')}/{length}", strict=False)
    except ValueError:
        return None


class PrefixIndex(Generic[T]):
    """Items by prefix, several for each, found by containment at a cost that follows what is found."""

    def __init__(self) -> None:
        self._items: dict[tuple[int, int, int], list[T]] = {}
        self._sorted: dict[int, list[_Entry]] = {4: [], 6: []}
        self._lengths: dict[int, dict[int, int]] = {4: {}, 6: {}}

    def add(self, prefix: Prefix, item: T) -> None:
        """The item is found under `prefix`."""
        address, length = int(prefix.network_address), prefix.prefixlen
        items = self._items.setdefault((prefix.version, address, length), [])
        if not items:
            insort(self._sorted[prefix.version], (address, length))
            lengths = self._lengths[prefix.version]
            lengths[length] = lengths.get(length, 0) + 1
        items.append(item)

    def remove(self, prefix: Prefix, item: T) -> None:
        """The item is no longer found there. Raises KeyError when it was not."""
        address, length = int(prefix.network_address), prefix.prefixlen
        items = self._items.get((prefix.version, address, length), [])
        if item not in items:
            raise KeyError(prefix)
        items.remove(item)
        if items:
            return
        del self._items[prefix.version, address, length]
        entries = self._sorted[prefix.version]
        del entries[bisect_left(entries, (address, length))]
        lengths = self._lengths[prefix.version]
        lengths[length] -= 1
        if not lengths[length]:
            del lengths[length]

    def containing(self, prefix: Prefix) -> Iterator[T]:
        """Items of every prefix that contains `prefix`, itself included."""
        address, version = int(prefix.network_address), prefix.version
        for length in self._lengths[version]:
            if length <= prefix.prefixlen:
                unmatched = prefix.max_prefixlen - length
                yield from self._items.get((version, address >> unmatched << unmatched, length), ())

    def within(self, prefix: Prefix) -> Iterator[T]:
        """Items of every prefix that lies in `prefix`, itself included."""
        first, version = int(prefix.network_address), prefix.version
        last = first + (1 << (prefix.max_prefixlen - prefix.prefixlen))
        entries = self._sorted[version]
        # Entries that begin at the same address and are wider sort before (first, its own length).
        for address, length in entries[
            bisect_left(entries, (first, prefix.prefixlen)) : bisect_left(entries, (last, 0))
        ]:
            if length >= prefix.prefixlen:
                yield from self._items[version, address, length]
