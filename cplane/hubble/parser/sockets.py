"""Records of sockets: what a connect() asked for and what it got are two flows, as Cilium tells them."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from cplane.hubble.detail import Detail
from cplane.hubble.parser.distinct import distinct
from cplane.hubble.parser.getters import Getters, NetnsOwner
from cplane.hubble.ring import Array
from cplane.hubble.store import FlowStore
from datapath.notify.records import SOCKET_DTYPE, RecordFlags, RecordType, SocketPoint

_KNOWN_MAX: Final = 1 << 16  # ends remembered; all are forgotten beyond that
_BASE: Final = np.uint64(0xFFFFFFFF_00000000)
_NOBODY: Final = NetnsOwner(0, 0)


def split_cookie(cookies: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """Cookies of sockets as what stands in a row's detail, of which there are few, and in its column."""
    return cookies & _BASE, cookies.astype(np.uint32)


class SocketResolver:
    """Makes rows of records of sockets. They say where to; whose network namespace it was says where from."""

    def __init__(self, store: FlowStore, getters: Getters) -> None:
        self._store, self._getters = store, getters
        self._owners: dict[int, NetnsOwner | None] = {}
        self._places: dict[tuple[int, bytes], tuple[int, int]] = {}
        self._revision: int | None = None
        self.skipped = 0  # records of sockets in nobody's network namespace, about which there is nothing to say

    def resolve(self, records: npt.NDArray[np.void]) -> tuple[npt.NDArray[np.void], Mapping[str, Array]]:
        """The records with two for each of a socket, complete as if packets had been seen; and columns of their own."""
        is_socket = records["type"] == RecordType.SOCKET
        if not is_socket.any():
            return records, {}
        revision = self._getters.revision
        if revision != self._revision or max(len(self._owners), len(self._places)) > _KNOWN_MAX:
            self._owners.clear()
            self._places.clear()
            self._revision = revision
        cookies, whose = np.unique(records.view(SOCKET_DTYPE)["netns_cookie"][is_socket], return_inverse=True)
        owners = [self._owner(cookie) for cookie in cookies.tolist()]
        known = np.array([one is not None for one in owners], np.bool_)[whose]
        self.skipped += int(np.count_nonzero(~known))
        times = np.ones(len(records), np.intp)
        times[is_socket] = np.where(known, 2, 0)
        records = np.repeat(records, times)
        if not known.any():
            return records, {}
        rows = np.flatnonzero(records["type"] == RecordType.SOCKET)
        before = rows[::2]
        records["subtype"][before] = SocketPoint.PRE_FWD
        for name in ("addr", "port"):
            records[f"d{name}"][before] = records[f"s{name}"][before]
        family = np.where(records["flags"][rows] & RecordFlags.IPV6, np.uint8(6), np.uint8(4))
        self._name_sources(records, rows, family, [one or _NOBODY for one in owners], np.repeat(whose[known], 2))
        self._name_destinations(records, rows, family)
        return records, self._columns(records, rows)

    def _owner(self, cookie: int) -> NetnsOwner | None:
        if cookie not in self._owners:
            self._owners[cookie] = self._getters.owner_of_netns(cookie)
        return self._owners[cookie]

    @staticmethod
    def _name_sources(
        records: npt.NDArray[np.void],
        rows: npt.NDArray[np.intp],
        family: npt.NDArray[np.uint8],
        owners: list[NetnsOwner],
        whose: npt.NDArray[np.intp],
    ) -> None:
        """`whose` says of each row which of the owners it is."""
        addresses = np.frombuffer(b"".join(_address(one, size) for one in owners for size in (4, 16)), "V16")
        records["saddr"][rows] = addresses[2 * whose + (family == 6)]
        records["sport"][rows] = 0  # there is none yet
        records["src_lxc"][rows] = np.array([one.endpoint_id for one in owners], np.uint16)[whose]
        records["src_identity"][rows] = np.array([one.identity for one in owners], np.uint32)[whose]

    def _name_destinations(
        self, records: npt.NDArray[np.void], rows: npt.NDArray[np.intp], family: npt.NDArray[np.uint8]
    ) -> None:
        addresses = records["daddr"][rows]
        halves = np.frombuffer(addresses.tobytes(), "<u8").reshape(-1, 2)
        first, inverse = distinct(halves[:, 0], halves[:, 1], family)
        places = zip(family[first].tolist(), addresses[first].tolist(), strict=True)
        found = np.array([self._at(*place) for place in places], np.uint32)
        records["dst_lxc"][rows] = found[inverse, 0]
        records["dst_identity"][rows] = found[inverse, 1]

    def _at(self, family: int, address: bytes) -> tuple[int, int]:
        """Local endpoint and identity at an address of 16 bytes."""
        key = (family, address)
        found = self._places.get(key)
        if found is None:
            place = (family, address[: 4 if family == 4 else 16])
            info = self._getters.endpoint_by_address(*place)
            endpoint, identity = (info.endpoint_id, info.identity) if info is not None else (0, 0)
            found = self._places[key] = (endpoint, identity or self._getters.identity_at(*place))
        return found

    def _columns(self, records: npt.NDArray[np.void], rows: npt.NDArray[np.intp]) -> Mapping[str, Array]:
        sockets = records.view(SOCKET_DTYPE)[rows]
        groups = sockets["cgroup_id"]
        bases, ends = split_cookie(sockets["socket_cookie"])
        first, inverse = distinct(bases, groups)
        numbers = [
            self._store.details.number(Detail(socket_base=base, cgroup_id=group))
            for base, group in zip(bases[first].tolist(), groups[first].tolist(), strict=True)
        ]
        detail = np.zeros(len(records), np.uint32)
        detail[rows] = np.array(numbers, np.uint32)[inverse]
        cookie = records["cookie"].copy()
        cookie[rows] = ends
        return {"detail": detail, "cookie": cookie}


def _address(owner: NetnsOwner, size: int) -> bytes:
    """Of that family; zeroes where there is none."""
    return next((one for one in owner.addresses if len(one) == size), b"").ljust(16, b"\0")
