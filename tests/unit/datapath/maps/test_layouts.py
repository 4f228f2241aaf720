"""Fixed layouts: bytes that the kernel and other programs read."""

import pytest

from datapath.maps.cstruct import Field, Layout
from datapath.maps.endpoints import FLAG_HOST, DeviceInfo, DeviceKey, EndpointInfo, EndpointKey
from datapath.maps.ipcache import FAMILY_V4, IpcacheInfo, IpcacheKey
from datapath.maps.policy import PolicyEntry, PolicyKey


@pytest.mark.parametrize(
    "value",
    [
        IpcacheKey(FAMILY_V4, bytes([10, 0, 0, 1]) + bytes(12), 32),
        IpcacheInfo(300, 1, bytes(16), 3),
        PolicyKey(7, 300, 1, 6, 443, 24),
        PolicyEntry(True, 0xFFFFFFFF, 24, 9, 15001, 1),
        EndpointKey(2, bytes(range(16))),
        EndpointInfo(5, 300, 301, 11, FLAG_HOST, b"\1" * 6, b"\2" * 6),
        DeviceKey(77),
        DeviceInfo(300, 301, 11, 0, b"\1" * 4, b"\2" * 16, b"\3" * 6, b"\4" * 6),
    ],
    ids=lambda value: type(value).__name__,
)
def test_packing_is_lossless(value: PolicyKey) -> None:
    assert type(value).unpack(value.pack()) == value


def test_a_policy_key_is_what_the_trie_matches_bit_by_bit() -> None:
    expected = bytes([96, 0, 0, 0, 7, 0, 0, 0, 44, 1, 0, 0, 1, 6, 1, 187])
    assert PolicyKey(7, 300, 1, 6, 443, 24).pack() == expected


def test_an_ipcache_key_counts_its_static_bits() -> None:
    key = IpcacheKey(FAMILY_V4, bytes([10, 0, 0, 0]) + bytes(12), 8).pack()
    assert key == bytes([40, 0, 0, 0, 0, 0, 0, 1, 10]) + bytes(15)


def test_a_big_endian_field_takes_integers_only() -> None:
    layout = Layout("x", (Field("port", "u16", big_endian=True),))
    assert layout.pack(0x0102) == b"\1\2"
    with pytest.raises(TypeError, match="a big-endian field takes an integer"):
        layout.pack(b"ab")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_many_structs_are_packed_as_each_of_them(count: int) -> None:
    layout = Layout(
        "s", (Field("a", "u8"), Field("b", "u16", big_endian=True), Field("c", "bytes", 3), Field("d", "u32"))
    )
    rows = [(number, 0x1234 + number, b"xy\0", 0xDEADBEEF - number) for number in range(count)]
    assert layout.pack_all(rows) == b"".join(layout.pack(*row) for row in rows)
