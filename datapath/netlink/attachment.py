"""An interface of a container, and all the names and numbers that follow from which one it is."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from datapath.errors import Rejected

HOST_PREFIX: Final = "lxc"
LINK_GROUP: Final = 0x63706C  # "cpl"; set when a link is made, so there is no instant without a mark
ROUTE_PROTOCOL: Final = 190  # rtnetlink(7): numbers above 4 are the administrators' and daemons'
ALIAS_CHARS_MAX: Final = 255  # IFALIASZ of linux/if.h without its final zero
_ALIAS_PREFIX: Final = "cplane"
_HOST_HASH_BYTES: Final = 6  # 3 + 12 characters fill an interface name


class BadAlias(Rejected):
    """The names do not fit into a link's alias."""

    code = "netlink.bad_alias"

    def __init__(self, alias: str, reason: str) -> None:
        self.alias, self.reason = alias, reason

    def __str__(self) -> str:
        return f"link alias {self.alias!r}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of one container in one network. None of the names contains a colon."""

    network: str
    container: str
    interface: str

    @property
    def host_interface(self) -> str:
        """The name of the node's side; the network has no part in it, a container's interfaces differ without."""
        return HOST_PREFIX + _digest("name", self.container, self.interface, size=_HOST_HASH_BYTES).hex()

    @property
    def mac(self) -> str:
        """The address of the container's side: locally administered, the same whenever it is made again."""
        return _mac("pod", self.container, self.interface)

    @property
    def host_mac(self) -> str:
        """The address of the node's side."""
        return _mac("node", self.container, self.interface)

    def alias(self, instance: str) -> str:
        """The mark on the node's side: whose link it is. Raises BadAlias."""
        parts = (_ALIAS_PREFIX, instance, self.network, self.container, self.interface)
        alias = ":".join(parts)
        if any(not part or ":" in part for part in parts):
            raise BadAlias(alias, "a name in it is empty or contains a colon")
        if len(alias.encode()) > ALIAS_CHARS_MAX:
            raise BadAlias(alias, f"it is longer than {ALIAS_CHARS_MAX} bytes; shorten the network's name")
        return alias


def parse_alias(alias: str, instance: str) -> Attachment | None:
    """The attachment that an alias of this instance names; None for any other alias."""
    parts = alias.split(":")
    if len(parts) != 5 or parts[:2] != [_ALIAS_PREFIX, instance]:
        return None
    return Attachment(*parts[2:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A pair of interfaces: the node's side by name and number, the MACs of both as `aa:bb:…`.

    `netns_cookie` is the kernel's number of the namespace that the pod's side is in; 0: it was not asked.
    """

    host_interface: str
    ifindex: int
    mac: str
    host_mac: str
    mtu: int
    netns_cookie: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """What a pod's interface has when it works.

    `addresses` and `gateways` are IP addresses as text, one of each family that is on, in the same order; the
    gateways are the node's own addresses.
    """

    attachment: Attachment
    netns: str
    link: Link
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedLink:
    """A link on the node that carries our mark; without an attachment it was never finished."""

    host_interface: str
    ifindex: int
    attachment: Attachment | None


def _digest(*parts: str, size: int) -> bytes:
    return blake2b("\0".join(parts).encode(), digest_size=size).digest()


def _mac(*parts: str) -> str:
    octets = bytearray(_digest(*parts, size=6))
    octets[0] = octets[0] & 0xFC | 0x02  # IEEE 802: unicast, locally administered
    return octets.hex(":")
