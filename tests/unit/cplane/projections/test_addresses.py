"""Addresses as map bytes, and back."""

from ipaddress import ip_address

import pytest

from cplane.projections.addresses import packed, unpacked


@pytest.mark.parametrize("text", ["192.0.2.1", "0.0.0.0", "2001:db8::1", "::", "::ffff:192.0.2.1"])
def test_an_address_is_had_again_from_its_bytes(text: str) -> None:
    family, data = packed(text)
    assert len(data) == 16
    assert unpacked(family, data) == ip_address(text)
