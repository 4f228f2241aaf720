"""Expired connections leave their maps: those of conntrack, and that of translated packets.

An expired entry harms nobody, as programs take it for absent; but an LRU map evicts by use, and a full one may push
out a live connection while dead ones remain.
"""

import time
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

import numpy as np

from datapath.kernel.maps import KernelMap

_LXC_ID_FROM_END: Final = 4  # before protocol and flavour, in the keys of both families
_PORTS_TO_END: Final = 8  # bytes behind the addresses, in the keys of both families
GRACE_S: Final = 5  # a packet in flight may be extending an entry that has just run out


class Swept(NamedTuple):
    """What one sweep saw: entries, and how many of them it deleted."""

    seen: int
    deleted: int


def now_s() -> int:
    """The programs' clock: whole seconds of CLOCK_MONOTONIC."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000_000


def expired(keys: bytes, values: bytes, count: int, now: int, lifetime_at: int) -> list[bytes]:
    """The keys, of `count` joined ones, whose entries ran out more than GRACE_S before `now` (s, CLOCK_MONOTONIC).

    `lifetime_at` is the offset of that second in an entry.
    """
    rows = np.frombuffer(values, np.uint8).reshape(count, -1)
    lifetimes = rows[:, lifetime_at : lifetime_at + 4].copy().view(np.uint32)[:, 0]
    size = len(keys) // count
    dead = np.flatnonzero(lifetimes.astype(np.int64) + GRACE_S < now)
    return [keys[index * size : index * size + size] for index in dead.tolist()]


def sweep(connections: KernelMap, now: int) -> Swept:
    """No entry is left that `expired` names. Raises Unavailable when the kernel refuses."""
    assert connections.spec.value is not None
    lifetime_at = connections.spec.value.offset("lifetime")
    seen = deleted = 0
    for keys, values, count in connections.batches():
        seen += count
        deleted += connections.delete_batch(expired(keys, values, count, now, lifetime_at))
    return Swept(seen, deleted)


def of_endpoints(keys: bytes, count: int, lxc_ids: Collection[int]) -> list[bytes]:
    """The keys, of `count` joined ones of either family, that belong to one of the endpoints."""
    size = len(keys) // count
    rows = np.frombuffer(keys, np.uint8).reshape(count, size)
    owners = rows[:, size - _LXC_ID_FROM_END : size - _LXC_ID_FROM_END + 2].copy().view(np.uint16)[:, 0]
    theirs = np.flatnonzero(np.isin(owners, np.fromiter(lxc_ids, np.uint16)))
    return [keys[index * size : index * size + size] for index in theirs.tolist()]


def peers_of(connections: KernelMap, now: int, wanted: Mapping[int, Collection[bytes]]) -> set[tuple[int, bytes]]:
    """Which of these peers (endpoint → addresses) have a connection with the endpoint that has not run out at `now`.

    `now` is in seconds of CLOCK_MONOTONIC. Raises Unavailable when the kernel refuses.
    """
    assert connections.spec.value is not None
    lifetime_at = connections.spec.value.offset("lifetime")
    half = (connections.spec.key_size - _PORTS_TO_END) // 2
    some = {number: {one for one in addresses if len(one) == half} for number, addresses in wanted.items()}
    numbers = np.fromiter((number for number, addresses in some.items() if addresses), np.uint16)
    found: set[tuple[int, bytes]] = set()
    for keys, values, count in connections.batches() if len(numbers) else ():
        rows = np.frombuffer(keys, np.uint8).reshape(count, -1)
        at = rows.shape[1] - _LXC_ID_FROM_END
        owners = rows[:, at : at + 2].copy().view(np.uint16)[:, 0]
        lives = np.frombuffer(values, np.uint8).reshape(count, -1)[:, lifetime_at : lifetime_at + 4].copy()
        for index in np.flatnonzero(np.isin(owners, numbers) & (lives.view(np.uint32)[:, 0] >= now)).tolist():
            number, key = int(owners[index]), rows[index].tobytes()
            sides = (key[:half], key[half : 2 * half])
            found.update((number, side) for side in sides if side in some[number])
    return found


def forget(conntrack: KernelMap, lxc_ids: Collection[int]) -> int:
    """The endpoints have no connections. Returns how many they had.

    For endpoints that are gone, before their number and addresses are given to others: a reply needs no policy, so a
    successor would be open to its predecessor's peers.
    """
    return sum(conntrack.delete_batch(of_endpoints(keys, count, lxc_ids)) for keys, _, count in conntrack.batches())
