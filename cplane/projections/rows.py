"""Rows of the datapath's tables as text: one column for each thing that people ask for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Final, NamedTuple

from cplane.domain.endpoint import Endpoint
from cplane.domain.policy.mapstate import Origin
from cplane.domain.policy.rule import AuthType
from cplane.domain.verdict import Direction
from cplane.projections.addresses import unpacked
from datapath.maps.endpoints import DeviceInfo, DeviceKey, EndpointInfo, EndpointKey
from datapath.maps.ipcache import FAMILY_V4, IpcacheInfo, IpcacheKey
from datapath.maps.lb import (
    BACKEND_LOCAL,
    BENEATH,
    BackendEntry,
    BackendKey,
    MaglevChunk,
    MaglevKey,
    MemberKey,
    RangeKey,
    ServiceEntry,
    ServiceKey,
    SkipKey,
    SlotKey,
)
from datapath.maps.policy import AUDIT_PLANE, PolicyEntry, PolicyKey

Rows = Mapping[Any, Any]  # Any: every table has key and value types of its own
OriginsOf = Callable[[int], Sequence[Origin]]
"""The terms that a cookie stands for."""

_PROTOCOLS: Final = {0: "ANY", 1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
_L4_PROTOCOL_BITS: Final = 8
_PORT_BITS: Final = 16
_ORIGINS_MAX: Final = 8  # that a row names; of more it says how many there are


class Columns(NamedTuple):
    """How a table is shown: column names, and a row's cells of either side."""

    key_names: tuple[str, ...]
    value_names: tuple[str, ...]
    key: Callable[[Any], tuple[str, ...]]  # Any: every table has types of its own
    value: Callable[[Any], tuple[str, ...]]


def columns_of(table: str, keys: Iterable[object], values: Iterable[object], origins: OriginsOf) -> Columns:
    """How to show `table`; tables without a form of their own show their fields as they are."""
    known = _policy_columns(origins) if table == "policy" else _COLUMNS.get(table)
    if known is not None:
        return known
    key, value = next(iter(keys), None), next(iter(values), None)
    return Columns(_names(key, "key"), _names(value, "value"), _plain, _plain)


def prefix_of(key: IpcacheKey) -> IPv4Network | IPv6Network:
    """The prefix that an ipcache key names."""
    if key.family == FAMILY_V4:
        return IPv4Network((key.addr[:4], key.prefix_bits))
    return IPv6Network((key.addr, key.prefix_bits))


def only(endpoint: Endpoint, table: str, rows: Rows) -> Rows:
    """The rows that concern an endpoint: the policy that it obeys, its addresses, its device."""
    match table:
        case "policy":
            return {key: value for key, value in rows.items() if key.policy_id & ~AUDIT_PLANE == endpoint.policy_id}
        case "ipcache":
            return {
                key: value for key, value in rows.items() if str(prefix_of(key).network_address) in endpoint.addresses
            }
        case "lxc" | "devices":
            return {key: value for key, value in rows.items() if value.lxc_id == endpoint.id}
        case _:
            return {key: value for key, value in rows.items() if getattr(key, "ifindex", 0) == endpoint.host_ifindex}


def _policy_columns(origins: OriginsOf) -> Columns:
    return Columns(
        ("policy", "plane", "direction", "peer", "protocol", "port"),
        ("action", "auth", "proxy_port", "audited", "precedence", "rules"),
        _policy_key,
        lambda entry: _policy_value(entry, origins),
    )


def _policy_key(key: PolicyKey) -> tuple[str, ...]:
    any_protocol = key.l4_bits < _L4_PROTOCOL_BITS
    protocol = "ANY" if any_protocol else _PROTOCOLS.get(key.protocol, str(key.protocol))
    peer = str(key.identity) if key.identity else "ANY"
    plane = "audit" if key.policy_id & AUDIT_PLANE else "enforced"
    direction = Direction(key.direction).name.lower()
    return (str(key.policy_id & ~AUDIT_PLANE), plane, direction, peer, protocol, _ports(key))


def _ports(key: PolicyKey) -> str:
    """`80`, `ANY`, or the range that a masked port covers, `1024-2047`."""
    free = _PORT_BITS - max(0, key.l4_bits - _L4_PROTOCOL_BITS)
    if free == _PORT_BITS:
        return "ANY"
    low = key.port >> free << free
    return str(key.port) if free == 0 else f"{low}-{low | (1 << free) - 1}"


def _policy_value(entry: PolicyEntry, origins: OriginsOf) -> tuple[str, ...]:
    action = "deny" if entry.deny else "redirect" if entry.proxy_port else "allow"
    proxy_port, audited = str(entry.proxy_port or "-"), "yes" if entry.audited else "-"
    return (action, _auth(entry), proxy_port, audited, str(entry.precedence), _rules(entry.cookie, origins))


def _auth(entry: PolicyEntry) -> str:
    """What it asks for; `derived`: by broader rules, where its own do not say."""
    if not entry.auth_type and not entry.auth_said:
        return "-"
    known = {int(one): one.name.lower().replace("_", "-") for one in AuthType}
    name = known.get(entry.auth_type, str(entry.auth_type))
    return name if entry.auth_said else f"{name} (derived)"


def _rules(cookie: int, origins: OriginsOf) -> str:
    """Policy and path of every term that is behind an entry; `-` where the language itself says it."""
    if not cookie:
        return "-"
    found = [f"{one.policy} {one.path}" for one in origins(cookie) if one.policy]
    if not found:
        return f"unknown ({cookie})"
    more = f" and {len(found) - _ORIGINS_MAX} more" if len(found) > _ORIGINS_MAX else ""
    return ", ".join(found[:_ORIGINS_MAX]) + more


def _ipcache_value(info: IpcacheInfo) -> tuple[str, ...]:
    tunnel = info.tunnel_endpoint
    shown = "-" if not any(tunnel) else str(IPv6Address(tunnel) if any(tunnel[4:]) else IPv4Address(tunnel[:4]))
    return (str(info.identity), shown, str(info.encrypt_key), f"0x{info.flags:x}")


def _address(key: EndpointKey) -> tuple[str, ...]:
    return (str(unpacked(key.family, key.addr)),)


def _endpoint_value(info: EndpointInfo) -> tuple[str, ...]:
    numbers = (info.lxc_id, info.identity, info.policy_id, info.ifindex)
    return (*map(str, numbers), _mac(info.mac), _mac(info.node_mac), f"0x{info.flags:x}")


def _device_value(info: DeviceInfo) -> tuple[str, ...]:
    ipv4 = str(IPv4Address(info.ipv4)) if any(info.ipv4) else "-"
    ipv6 = str(IPv6Address(info.ipv6)) if any(info.ipv6) else "-"
    numbers = (info.lxc_id, info.identity, info.policy_id)
    return (*map(str, numbers), ipv4, ipv6, _mac(info.mac), _mac(info.node_mac), f"0x{info.flags:x}")


def _device_key(key: DeviceKey) -> tuple[str, ...]:
    return (str(key.ifindex),)


def _ipcache_key(key: IpcacheKey) -> tuple[str, ...]:
    return (str(prefix_of(key)),)


def _place(address: bytes, port: int, family: int) -> str:
    return f"{IPv4Address(address[:4])}:{port}" if family == FAMILY_V4 else f"[{IPv6Address(address)}]:{port}"


def _frontend(key: ServiceKey) -> tuple[str, ...]:
    beneath = " (beneath)" if key.family & BENEATH else ""
    place = _place(key.addr, key.port, key.family & ~BENEATH)
    return (place + beneath, _PROTOCOLS.get(key.protocol, str(key.protocol)))


def _served(entry: ServiceEntry) -> tuple[str, ...]:
    flags = ",".join(flag.name.lower().replace("_", "-") for flag in entry.flags if flag.name) or "-"
    local = f"{entry.local_first}+{entry.local_count}" if entry.local_count else "-"
    affinity = f"{entry.affinity_s}s" if entry.affinity_s else "-"
    return (str(entry.id), entry.kind.name.lower().replace("_", "-"), str(entry.slots), local, affinity, flags)


def _slot(key: SlotKey) -> tuple[str, ...]:
    return (str(key.service_id), str(key.slot))


def _backend(entry: BackendEntry) -> tuple[str, ...]:
    protocol = _PROTOCOLS.get(entry.protocol, str(entry.protocol))
    local = "yes" if entry.flags & BACKEND_LOCAL else "-"
    return (str(entry.id), _place(entry.addr, entry.port, entry.family), protocol, local)


def _backend_key(key: BackendKey) -> tuple[str, ...]:
    return (str(key.id),)


def _member(key: MemberKey) -> tuple[str, ...]:
    return (str(key.service_id), str(key.backend_id))


def _skip(key: SkipKey) -> tuple[str, ...]:
    return (str(key.service_id), str(key.netns_cookie))


def _range(key: RangeKey) -> tuple[str, ...]:
    return (str(key.service_id), f"{unpacked(key.family, key.addr)}/{key.prefix_bits}")


def _maglev_key(key: MaglevKey) -> tuple[str, ...]:
    return (str(key.service_id), str(key.chunk))


def _maglev_chunk(chunk: MaglevChunk) -> tuple[str, ...]:
    return (" ".join(str(number) for number in chunk.numbers if number),)


def _nothing(_row: object) -> tuple[str, ...]:
    return ()


def _mac(raw: bytes) -> str:
    return raw.hex(":")


def _names(row: object, otherwise: str) -> tuple[str, ...]:
    """Column names of a row; a row that says nothing (None) has none."""
    return () if row is None else getattr(row, "_fields", (otherwise,))


def _plain(row: object) -> tuple[str, ...]:
    if row is None:
        return ()
    cells = row if isinstance(row, tuple) else (row,)
    return tuple(cell.hex() if isinstance(cell, bytes) else str(cell) for cell in cells)


_COLUMNS: Final = {
    "ipcache": Columns(("prefix",), ("identity", "tunnel", "key", "flags"), _ipcache_key, _ipcache_value),
    "lxc": Columns(
        ("address",),
        ("endpoint", "identity", "policy", "ifindex", "mac", "node_mac", "flags"),
        _address,
        _endpoint_value,
    ),
    "devices": Columns(
        ("ifindex",),
        ("endpoint", "identity", "policy", "ipv4", "ipv6", "mac", "node_mac", "flags"),
        _device_key,
        _device_value,
    ),
    "lb_services": Columns(
        ("frontend", "protocol"), ("id", "kind", "slots", "local", "affinity", "flags"), _frontend, _served
    ),
    "lb_slots": Columns(("frontend_id", "slot"), ("backend", "address", "protocol", "local"), _slot, _backend),
    "lb_backends": Columns(("id",), ("backend", "address", "protocol", "local"), _backend_key, _backend),
    "lb_members": Columns(("frontend_id", "backend"), (), _member, _nothing),
    "lb_skips": Columns(("frontend_id", "netns"), (), _skip, _nothing),
    "lb_ranges": Columns(("frontend_id", "clients"), (), _range, _nothing),
    "lb_maglev": Columns(("frontend_id", "chunk"), ("backends",), _maglev_key, _maglev_chunk),
}
