"""Two nodes for one service: the one that clients ask, and the one that has its backend and answers them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from datapath.maps import endpoints
from datapath.maps.endpoints import EndpointKey
from datapath.maps.ipcache import FAMILY_V4, FAMILY_V6
from datapath.maps.lb import LbFlags
from tests.support.kernel import A
from tests.support.lb_tables import Backend
from tests.support.outside import CLIENT_MAC, ETH0_MAC, OUTSIDE, V4, V6, Family, Outside, Went, outside, sent
from tests.support.packets import SYN, TCP, packed, tcp, udp

OPTION, IPIP, GENEVE = 1, 2, 3  # DSR_* of bpf/lib/dsr.h
PORT, BACKEND_PORT = 80, 8080
DSR: Final = OUTSIDE | LbFlags.DSR


class Two(NamedTuple):
    """The node that clients ask, and the one that has the backend, which is pod A."""

    front: Outside
    back: Outside

    def prepare(self) -> None:
        """Both know nothing but their way; one of them does not have pod A."""
        self.front.reset()
        self.back.reset()
        self.back.net.allow_all(A)
        table = self.front.maps[endpoints.ADDRESS_SPEC.name]
        for family, prefix, router in ((V4, "10.9.0.0/24", "10.200.0.9"), (V6, "fd09::/64", "fd20::9")):
            number = FAMILY_V4 if family is V4 else FAMILY_V6
            table.delete(EndpointKey(number, packed(pod(family)).ljust(16, b"\0")).pack())
            self.front.home.ip("route", "replace", prefix, "via", router)

    def service(self, family: Family, protocol: int = TCP, *, flags: LbFlags = DSR, port: int = BACKEND_PORT) -> None:
        """Both know it."""
        for node, local in ((self.front, False), (self.back, True)):
            node.service(1, family.vip, PORT, (Backend(9, pod(family), port, local),), protocol=protocol, flags=flags)


@contextmanager
def two_nodes(cache: Path, mode: int) -> Iterator[Two]:
    """Whose programs have been compiled for the mode."""
    config = {"lb": 1, "dsr_dispatch": mode}
    with outside(f"front{mode}", cache, **config) as front, outside(f"back{mode}", cache, **config) as back:
        yield Two(front, back)


def pod(family: Family) -> str:
    """The backend's address."""
    return A.ipv4 if family is V4 else A.ipv6


def segment(protocol: int, sport: int, dport: int, flags: int = SYN, payload: bytes = b"hello") -> bytes:
    """TCP, or a datagram of UDP."""
    return tcp(sport, dport, flags, payload) if protocol == TCP else udp(sport, dport, payload)


def request(family: Family, protocol: int = TCP, flags: int = SYN, payload: bytes = b"hello") -> bytes:
    """The client asks the service."""
    return sent(family.client, family.vip, protocol, segment(protocol, 40000, PORT, flags, payload))


def moved(went: Went) -> bytes:
    """The frame, as the wire brings it to the other node."""
    return ETH0_MAC + CLIENT_MAC + went.frame[12:]
