"""Conntrack layouts: keys that both directions share, entries that survive the round trip."""

import socket

import pytest

from datapath.maps.conntrack import VALUE, CtEntry, CtFlags, CtKey
from datapath.maps.ipcache import FAMILY_V4, FAMILY_V6
from datapath.maps.metrics import MetricsDirection, MetricsKey, MetricsValue

V4 = (socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.2"))
V6 = (socket.inet_pton(socket.AF_INET6, "fd00::1"), socket.inet_pton(socket.AF_INET6, "fd00::2"))


@pytest.mark.parametrize(("pair", "family"), [(V4, FAMILY_V4), (V6, FAMILY_V6)])
def test_both_directions_have_one_key(pair: tuple[bytes, bytes], family: int) -> None:
    for ports in ((1, 2), (2, 1), (80, 80), (0x0100, 0x0001)):
        there = CtKey.of(7, 6, (pair[0], ports[0]), (pair[1], ports[1]))
        back = CtKey.of(7, 6, (pair[1], ports[1]), (pair[0], ports[0]))
        assert there == back
        assert there.family == family
        assert CtKey.unpack(there.pack()) == there


def test_the_same_address_is_ordered_by_port_as_it_lies_in_memory() -> None:
    # 0x0100 has a zero in its second byte, 0x0001 in its first: the first byte counts least.
    key = CtKey.of(1, 17, (V4[0], 0x0100), (V4[0], 0x0001))
    assert (key.low_port, key.high_port) == (0x0100, 0x0001)


def test_other_endpoints_and_protocols_have_other_keys() -> None:
    keys = {CtKey.of(lxc, protocol, (V4[0], 1), (V4[1], 2)).pack() for lxc in (1, 2) for protocol in (6, 17)}
    assert len(keys) == 4


def test_an_entry_survives_the_round_trip() -> None:
    entry = CtEntry(1 << 40, 2, 3, 4, 5, 6, CtFlags.INITIATOR_LOW | CtFlags.CLOSING_REV, 7, 8)
    assert CtEntry.unpack(entry.pack()) == entry
    assert len(entry.pack()) == VALUE.size == 32


def test_a_metric_is_a_reason_and_a_direction() -> None:
    for reason in (0, 133, 255):
        for direction in MetricsDirection:
            assert MetricsKey.unpack(MetricsKey(reason, direction).pack()) == (reason, direction)
    with pytest.raises(ValueError, match="3"):
        MetricsKey.unpack((3).to_bytes(4, "little"))


def test_a_total_is_over_all_cpus() -> None:
    per_cpu = b"".join(n.to_bytes(8, "little") for n in (1, 100, 2, 200, 0, 0))
    assert MetricsValue.total(per_cpu) == (3, 300)
