"""Who the two ends of a batch of packets are: each distinct end is looked up once."""

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cplane.domain.labels import CLUSTER_KEY, NAMESPACE_KEY
from cplane.hubble.endpoint import EndpointMeta, Service
from cplane.hubble.parser.distinct import distinct
from cplane.hubble.parser.getters import ANY_PROTOCOL, EndpointInfo, Getters
from cplane.hubble.store import FlowStore

_KNOWN_MAX: Final = 1 << 16  # ends remembered; all are forgotten beyond that
_V4, _V6 = 1, 2  # flow.IPVersion


class Ends(NamedTuple):
    """One end of each packet of a batch, as columns."""

    lxc: npt.NDArray[np.uint16]
    identity: npt.NDArray[np.uint32]
    ip_version: npt.NDArray[np.uint8]
    hi: npt.NDArray[np.uint64]
    lo: npt.NDArray[np.uint64]


class Around(NamedTuple):
    """What decides, beside the end itself, under which name and as which service it was reached: columns, too."""

    other: npt.NDArray[np.uint16]  # the endpoint at the other end
    protocol: npt.NDArray[np.uint8]
    port: npt.NDArray[np.uint16]


class _Known(NamedTuple):
    """An end that was looked up; `names` and `services` as the getters give them."""

    number: int
    names: Mapping[int, tuple[str, ...]]
    services: Mapping[tuple[int, int], Service]


class EndResolver:
    """Numbers of `store.endpoints` for ends of packets."""

    def __init__(self, store: FlowStore, getters: Getters) -> None:
        self._store, self._getters = store, getters
        self._known: dict[tuple[int, ...], _Known] = {}
        self._called: dict[tuple[int, tuple[str, ...], Service | None], int] = {}
        self._revision: int | None = None

    def forget(self) -> None:
        """Numbers given so far may mean something else now."""
        self._known.clear()
        self._called.clear()

    def numbers(self, ends: Ends, around: Around) -> tuple[npt.NDArray[np.uint32], list[EndpointMeta]]:
        """The number of each end, and the distinct ends behind them."""
        revision = self._getters.revision
        if revision != self._revision or max(len(self._known), len(self._called)) > _KNOWN_MAX:
            self.forget()
            self._revision = revision
        first, inverse = distinct(*ends)
        found = [self._find(end) for end in zip(*(column[first].tolist() for column in ends), strict=True)]
        numbers = np.fromiter((one.number for one in found), np.uint32, len(found))
        seen = [self._store.endpoints[n] for n in set(numbers.tolist())]
        called = np.fromiter((bool(one.names or one.services) for one in found), np.bool_, len(found))
        numbers = numbers[inverse]
        if called.any():  # few addresses have a name or a service
            rows = np.flatnonzero(called[inverse])
            kinds = list(zip(*(column[rows].tolist() for column in (inverse, *around)), strict=True))
            numbered = {kind: self._call(found[kind[0]], *kind[1:]) for kind in set(kinds)}
            numbers[rows] = [numbered[kind] for kind in kinds]
        return numbers, seen

    def _find(self, end: tuple[int, ...]) -> _Known:
        known = self._known.get(end)
        if known is None:
            number = self._store.endpoints.number(self._resolve(*end))
            _, _, ip_version, hi, lo = end
            place = _address(ip_version, hi, lo)
            names = self._getters.names_of(*place) if place is not None else {}
            services = self._getters.services_at(*place) if place is not None else {}
            known = self._known[end] = _Known(number, names, services)
        return known

    def _call(self, known: _Known, other: int, protocol: int, port: int) -> int:
        """The number of an end that has a name or a service, to that other end and at that port."""
        names = known.names.get(other, ())
        services = known.services
        service = services.get((protocol, port)) or services.get((ANY_PROTOCOL, port))
        if not names and service is None:
            return known.number
        wanted = (known.number, names, service)
        number = self._called.get(wanted)
        if number is None:
            meta = replace(self._store.endpoints[known.number], names=names, service=service)
            number = self._called[wanted] = self._store.endpoints.number(meta)
        return number

    def _resolve(self, lxc: int, identity: int, ip_version: int, hi: int, lo: int) -> EndpointMeta:
        info = self._info(lxc, ip_version, hi, lo) or EndpointInfo(lxc)
        labels = self._getters.identity_labels(identity)
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
        place = _address(ip_version, hi, lo)
        return None if place is None else self._getters.endpoint_by_address(*place)


def _address(ip_version: int, hi: int, lo: int) -> tuple[int, bytes] | None:
    """Family and bytes of an address of the ring; None: there is none."""
    if ip_version == _V4:
        return 4, (hi >> 32).to_bytes(4, "big")
    return (6, (hi << 64 | lo).to_bytes(16, "big")) if ip_version == _V6 else None


def _value(labels: tuple[str, ...], key: str) -> str:
    prefix = f"k8s:{key}="
    return next((label.removeprefix(prefix) for label in labels if label.startswith(prefix)), "")


def address_text(ip_version: int, hi: int, lo: int) -> str:
    """An address of the ring as text; empty when there is none."""
    if ip_version == _V4:
        return str(IPv4Address(hi >> 32))
    return str(IPv6Address(hi << 64 | lo)) if ip_version == _V6 else ""
