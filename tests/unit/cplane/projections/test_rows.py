"""Rows of the datapath's tables as text."""

from ipaddress import ip_address
from typing import NamedTuple

import pytest

from cplane.domain.policy.mapstate import Origin
from cplane.projections.rows import columns_of
from datapath.maps.endpoints import DeviceInfo, DeviceKey, EndpointInfo, EndpointKey
from datapath.maps.ipcache import IpcacheInfo, IpcacheKey
from datapath.maps.policy import AUDIT_PLANE, PolicyEntry, PolicyKey

MAC = bytes.fromhex("020000000001")
WEB, API = Origin("CiliumNetworkPolicy shop/web", "spec.ingress[0]"), Origin("NetworkPolicy shop/api", "spec.egress[1]")
ORIGINS = {7: (WEB,), 8: (Origin("", ""), WEB, API), 9: tuple(WEB._replace(path=f"spec[{n}]") for n in range(11))}


def row(table: str, key: object, value: object) -> dict[str, str]:
    columns = columns_of(table, [key], [value], lambda cookie: ORIGINS.get(cookie, ()))
    cells = (*columns.key(key), *columns.value(value))
    return dict(zip((*columns.key_names, *columns.value_names), cells, strict=True))


def packed(address: str) -> bytes:
    return ip_address(address).packed.ljust(16, b"\0")


@pytest.mark.parametrize(
    ("key", "protocol", "port"),
    [
        (PolicyKey(1, 2, 0, 0, 0, 0), "ANY", "ANY"),
        (PolicyKey(1, 2, 0, 6, 0, 8), "TCP", "ANY"),
        (PolicyKey(1, 2, 0, 6, 80, 24), "TCP", "80"),
        (PolicyKey(1, 2, 0, 17, 1024, 14), "UDP", "1024-2047"),
        (PolicyKey(1, 2, 0, 132, 0x8000, 9), "SCTP", "32768-65535"),
        (PolicyKey(1, 2, 0, 1, 8, 24), "ICMP", "8"),
        (PolicyKey(1, 2, 0, 47, 0, 8), "47", "ANY"),
    ],
)
def test_a_policy_key_names_protocol_and_ports(key: PolicyKey, protocol: str, port: str):
    shown = row("policy", key, PolicyEntry(False, 5, key.l4_bits, 7))
    assert shown == {
        "policy": "1",
        "plane": "enforced",
        "direction": "ingress",
        "peer": "2",
        "protocol": protocol,
        "port": port,
        "action": "allow",
        "auth": "-",
        "proxy_port": "-",
        "audited": "-",
        "precedence": "5",
        "rules": "CiliumNetworkPolicy shop/web spec.ingress[0]",
    }


def test_a_policy_entry_says_what_it_does():
    key = PolicyKey(1, 0, 1, 0, 0, 0)
    assert row("policy", key, PolicyEntry(True, 0, 0))["action"] == "deny"
    redirect = row("policy", key, PolicyEntry(False, 0, 0, proxy_port=10_000))
    assert (redirect["action"], redirect["proxy_port"]) == ("redirect", "10000")
    assert (redirect["direction"], redirect["peer"]) == ("egress", "ANY")
    assert row("policy", key, PolicyEntry(False, 0, 0, audited=True))["audited"] == "yes"


@pytest.mark.parametrize(
    ("auth_type", "said", "shown"),
    [
        (0, False, "-"),
        (0, True, "disabled"),
        (1, True, "spire"),
        (2, True, "test-always-fail"),
        (1, False, "spire (derived)"),
        (9, True, "9"),
    ],
)
def test_a_policy_entry_says_which_authentication_it_asks_for(auth_type: int, said: bool, shown: str):
    entry = PolicyEntry(False, 0, 0, auth_type=auth_type, auth_said=said)
    assert row("policy", PolicyKey(1, 0, 1, 0, 0, 0), entry)["auth"] == shown


@pytest.mark.parametrize(
    ("cookie", "shown"),
    [
        (0, "-"),
        (4711, "unknown (4711)"),
        (8, "CiliumNetworkPolicy shop/web spec.ingress[0], NetworkPolicy shop/api spec.egress[1]"),
        (9, ", ".join(f"CiliumNetworkPolicy shop/web spec[{n}]" for n in range(8)) + " and 3 more"),
    ],
)
def test_a_policy_entry_names_the_rules_behind_it(cookie: int, shown: str):
    assert row("policy", PolicyKey(1, 0, 1, 0, 0, 0), PolicyEntry(False, 0, 0, cookie))["rules"] == shown


def test_a_row_of_an_audit_plane_has_the_number_of_its_policy():
    shown = row("policy", PolicyKey(300 | AUDIT_PLANE, 0, 1, 0, 0, 0), PolicyEntry(False, 0, 0))
    assert (shown["policy"], shown["plane"]) == ("300", "audit")


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        (IpcacheKey(1, packed("10.1.2.0"), 24), "10.1.2.0/24"),
        (IpcacheKey(1, packed("0.0.0.0"), 0), "0.0.0.0/0"),
        (IpcacheKey(2, packed("fd00::"), 64), "fd00::/64"),
    ],
)
def test_an_ipcache_key_is_a_prefix(key: IpcacheKey, prefix: str):
    shown = row("ipcache", key, IpcacheInfo(9, 1, packed("192.0.2.1")))
    assert shown == {"prefix": prefix, "identity": "9", "tunnel": "192.0.2.1", "key": "0", "flags": "0x1"}
    assert row("ipcache", key, IpcacheInfo(9))["tunnel"] == "-"
    assert row("ipcache", key, IpcacheInfo(9, 0, packed("fd00::1")))["tunnel"] == "fd00::1"


def test_an_endpoint_is_shown_by_its_address():
    info = EndpointInfo(10, 256, 256, 7, 1, MAC, MAC)
    shown = row("lxc", EndpointKey(1, packed("10.0.0.1")), info)
    assert (shown["address"], shown["endpoint"], shown["mac"]) == ("10.0.0.1", "7", "02:00:00:00:00:01")
    assert row("lxc", EndpointKey(2, packed("fd00::1")), info)["address"] == "fd00::1"


def test_a_device_is_shown_with_the_addresses_it_may_use():
    info = DeviceInfo(256, 256, 7, 0, bytes([10, 0, 0, 1]), bytes(16), MAC, MAC)
    shown = row("devices", DeviceKey(12), info)
    assert (shown["ifindex"], shown["ipv4"], shown["ipv6"]) == ("12", "10.0.0.1", "-")


class Key(NamedTuple):
    ifindex: int
    raw: bytes


def test_a_table_without_a_form_of_its_own_shows_its_fields():
    assert row("programs", Key(1, b"\x01\xff"), ("x",)) == {"ifindex": "1", "raw": "01ff", "value": "x"}
    assert row("programs", Key(1, b""), None) == {"ifindex": "1", "raw": ""}
    assert columns_of("programs", [], [], lambda _: ()).key_names == ()
