"""Sockets that still send datagrams to a backend which their service has no more: nobody tells them, so they are ended.

A connection of TCP notices by itself that the other side is gone; a connected UDP socket would be silent for ever.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from datapath.kernel.maps import KernelMap
from datapath.kernel.peers import Peers
from datapath.maps import lb
from datapath.maps.ipcache import FAMILY_V4
from datapath.netlink.sockets import Connected, Remote

UDP: Final = 17
ANYWHERE: Final = 0  # the cookie of no network namespace

Serves = Callable[[int, int], bool]
"""(number of a frontend, number of a backend) → whether connections to the one may be with the other."""

Stale = dict[int, set[Connected]]
"""Sockets by the cookie of their network namespace, or ANYWHERE."""


def stale(peers: Peers, socks: KernelMap, serves: Serves) -> Stale:
    """The UDP sockets that were sent to a backend which does not serve their frontend now. Raises KernelRefused.

    Whether they are connected still is not known here; of a socket that lost its place, neither is where it is.
    `serves` is asked only after all of them were looked at: who answers with what is true then knows their backends.
    """
    found: Stale = defaultdict(set)
    rows = peers.of_protocol(UDP)
    others = socks.dump() if peers.is_shared else {}
    for row in peers.settled(rows[_gone(rows["service_id"], rows["backend_id"], serves)]):
        remote = _remote(row["backend"].tobytes(), int(row["backend_port"]), int(row["family"]))
        found[int(row["netns_cookie"])].add(Connected(int(row["cookie"]), remote))
    found[ANYWHERE].update(_in_rows(others, serves))
    return {netns: sockets for netns, sockets in found.items() if sockets}


def _gone(frontends: npt.NDArray[np.uint16], backends: npt.NDArray[np.uint32], serves: Serves) -> npt.NDArray[np.bool_]:
    """Many sockets, but few pairs of frontend and backend: each pair is asked about once."""
    pairs = frontends.astype(np.uint64) << np.uint64(32) | backends
    distinct, inverse = np.unique(pairs, return_inverse=True)
    gone = [not serves(pair >> 32, pair & 0xFFFFFFFF) for pair in distinct.tolist()]
    return np.array(gone, np.bool_)[inverse]


def _in_rows(socks: Mapping[bytes, bytes], serves: Serves) -> Iterator[Connected]:
    for key, value in socks.items():
        cookie, address, port, family, protocol = lb.SOCK_KEY.unpack(key)
        _, _, frontend, backend, _ = lb.SOCK_VALUE.unpack(value)
        if protocol == UDP and not serves(int(frontend), int(backend)):
            assert isinstance(address, bytes)
            yield Connected(int(cookie), _remote(address, int(port), int(family)))


def _remote(address: bytes, port: int, family: int) -> Remote:
    return Remote(address[: 4 if family == FAMILY_V4 else 16], port)
