"""What ADD answers, in the form of each version of the specification."""

from collections.abc import Sequence

import msgspec

from cplane.api.cni import wire
from cplane.api.cni.request import Dns
from datapath.netlink.attachment import Wiring

_CONTAINER_INDEX = 1  # of the container's interface in `interfaces`


def result(version: str, wiring: Wiring, routed: Sequence[str], dns: Dns) -> dict[str, object]:
    """The document for a version of `wire.VERSIONS`; `routed` are the destinations that lead to the gateways.

    Before 1.0.0 an address says its family; since 1.1.0 an interface says its MTU.
    """
    link = wiring.link
    interfaces: list[dict[str, object]] = [
        {"name": link.host_interface, "mac": link.host_mac},
        {"name": wiring.attachment.interface, "mac": link.mac, "sandbox": wiring.netns},
    ]
    if _since(version, "1.1.0"):
        for interface in interfaces:
            interface["mtu"] = link.mtu
    document: dict[str, object] = {
        "cniVersion": version,
        "interfaces": interfaces,
        "ips": [
            _ip(version, address, gateway) for address, gateway in zip(wiring.addresses, wiring.gateways, strict=True)
        ],
        "routes": [
            {"dst": destination, "gw": gateway}
            for gateway in wiring.gateways
            for destination in routed
            if _family(destination) == _family(gateway)
        ],
    }
    servers = msgspec.to_builtins(dns)
    if servers:
        document["dns"] = servers
    return document


def _ip(version: str, address: str, gateway: str) -> dict[str, object]:
    entry: dict[str, object] = {
        "interface": _CONTAINER_INDEX,
        "address": f"{address}/{128 if _family(address) == '6' else 32}",
        "gateway": gateway,
    }
    if not _since(version, "1.0.0"):
        entry["version"] = _family(address)
    return entry


def _family(address: str) -> str:
    return "6" if ":" in address else "4"


def _since(version: str, first: str) -> bool:
    return wire.VERSIONS.index(version) >= wire.VERSIONS.index(first)
