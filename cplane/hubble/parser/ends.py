"""Who the two ends of a batch of packets are: each distinct end is looked up once."""

from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cplane.domain.labels import CLUSTER_KEY, NAMESPACE_KEY
from cplane.hubble.endpoint import EndpointMeta
from cplane.hubble.parser.getters import EndpointInfo, Getters
from cplane.hubble.store import FlowStore

_KNOWN_MAX: Final = 1 << 16  # ends remembered; all are forgotten beyond that
_V4, _V6 = 1, 2  # flow.IPVersion
# odd numbers with well-spread bits, to make one number of an end
_MIX: Final = tuple(
    np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5)
)


class Ends(NamedTuple):
    """One end of each packet of a batch, as columns."""

    lxc: npt.NDArray[np.uint16]
    identity: npt.NDArray[np.uint32]
    ip_version: npt.NDArray[np.uint8]
    hi: npt.NDArray[np.uint64]
    lo: npt.NDArray[np.uint64]


class EndResolver:
    """Numbers of `store.endpoints` for ends of packets."""

    def __init__(self, store: FlowStore, getters: Getters) -> None:
        self._store, self._getters = store, getters
        self._known: dict[tuple[int, ...], int] = {}
        self._revision: int | None = None

    def forget(self) -> None:
        """Numbers given so far may mean something else now."""
        self._known.clear()

    def numbers(self, ends: Ends) -> tuple[npt.NDArray[np.uint32], list[EndpointMeta]]:
        """The number of each end, and the distinct ends behind them."""
        revision = self._getters.revision
        if revision != self._revision or len(self._known) > _KNOWN_MAX:
            self._known.clear()
            self._revision = revision
        first, inverse = _distinct(ends)
        rows = zip(*(column[first].tolist() for column in ends), strict=True)
        numbers = np.fromiter((self._number(row) for row in rows), np.uint32, len(first))
        return numbers[inverse], [self._store.endpoints[n] for n in set(numbers.tolist())]

    def _number(self, end: tuple[int, ...]) -> int:
        number = self._known.get(end)
        if number is None:
            number = self._store.endpoints.number(self._resolve(*end))
            self._known[end] = number
        return number

    def _resolve(self, lxc: int, identity: int, ip_version: int, hi: int, lo: int) -> EndpointMeta:
        labels = self._getters.identity_labels(identity)
        info = self._info(lxc, ip_version, hi, lo) or EndpointInfo(lxc)
        return EndpointMeta(
            endpoint_id=info.endpoint_id,
            identity=identity,
            cluster=info.cluster or _value(labels, CLUSTER_KEY),
            namespace=info.namespace or _value(labels, NAMESPACE_KEY),
            pod_name=info.pod_name,
            labels=tuple(sorted(label.removesuffix("=") for label in labels)),
            workloads=info.workloads,
        )

    def _info(self, lxc: int, ip_version: int, hi: int, lo: int) -> EndpointInfo | None:
        if lxc:  # the kernel knows better than the address, which may be forged
            return self._getters.endpoint_by_id(lxc)
        if ip_version == _V4:
            return self._getters.endpoint_by_address(4, (hi >> 32).to_bytes(4, "big"))
        if ip_version == _V6:
            return self._getters.endpoint_by_address(6, (hi << 64 | lo).to_bytes(16, "big"))
        return None


def _distinct(ends: Ends) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows that stand for the distinct ends, and which of them each row equals.

    Sorting one mixed number is several times faster than sorting rows. Different ends with the same number are
    possible on purpose only; then the rows themselves are sorted.
    """
    kind = ends.identity.astype(np.uint64) << np.uint64(24)
    kind |= ends.lxc.astype(np.uint64) << np.uint64(8) | ends.ip_version
    mixed = (ends.hi * _MIX[0]) ^ (ends.lo * _MIX[1] + _MIX[2]) ^ (kind * _MIX[3])
    mixed ^= mixed >> np.uint64(29)
    _, first, inverse = np.unique(mixed, return_index=True, return_inverse=True)
    if all(np.array_equal(column[first][inverse], column) for column in ends):
        return first, inverse
    rows = np.stack([column.astype(np.uint64) for column in ends], axis=1)
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first, inverse.reshape(-1)


def _value(labels: tuple[str, ...], key: str) -> str:
    prefix = f"k8s:{key}="
    return next((label.removeprefix(prefix) for label in labels if label.startswith(prefix)), "")


def address_text(ip_version: int, hi: int, lo: int) -> str:
    """An address of the ring as text; empty when there is none."""
    if ip_version == _V4:
        return str(IPv4Address(hi >> 32))
    return str(IPv6Address(hi << 64 | lo)) if ip_version == _V6 else ""
