"""Which connections a sweep deletes."""

import pytest

from datapath.gc.conntrack import GRACE_S, expired, peers_of
from datapath.maps.conntrack import SPEC4, SPEC6, VALUE, CtEntry, CtFlags, CtKey

AT = VALUE.offset("lifetime")


def _values(*lifetimes: int) -> bytes:
    return b"".join(CtEntry(1, lifetime, 2, 3, 4, 5, CtFlags(0), 6, 7).pack() for lifetime in lifetimes)


def test_an_entry_goes_when_its_grace_is_over() -> None:
    now = 1000
    values = _values(now - GRACE_S - 1, now - GRACE_S, now, now + 1, 0)
    assert expired(b"aabbccddee", values, 5, now, AT) == [b"aa", b"ee"]


def test_nothing_goes_while_all_live() -> None:
    assert expired(b"ab", _values(10, 0xFFFFFFFF), 2, 10, AT) == []


class Held:
    """A map with these entries, given two at a time."""

    def __init__(self, spec, *entries: tuple[CtKey, int]) -> None:
        self.spec, self._entries = spec, entries

    def batches(self):
        for first in range(0, len(self._entries), 2):
            some = self._entries[first : first + 2]
            yield b"".join(key.pack() for key, _ in some), _values(*(life for _, life in some)), len(some)


@pytest.mark.parametrize(("spec", "size"), [(SPEC4, 4), (SPEC6, 16)], ids=["v4", "v6"])
def test_peers_with_a_connection_are_those_that_are_asked_about_and_live(spec, size: int) -> None:
    own, one, other, third = (bytes([number]) * size for number in (5, 1, 9, 3))

    def key(endpoint: int, peer: bytes) -> CtKey:
        return CtKey.of(endpoint, 6, (own, 40000), (peer, 443))

    held = Held(
        spec, (key(7, one), 100), (key(7, other), 99), (key(8, third), 200), (key(7, third), 150), (key(9, one), 150)
    )
    wanted = {7: [one, other, third, bytes(20 - size)], 8: [one], 10: [one]}
    assert peers_of(held, 100, wanted) == {(7, one), (7, third)}
    assert peers_of(held, 100, {}) == set()
