"""Which connections a sweep deletes."""

from datapath.gc.conntrack import GRACE_S, expired
from datapath.maps.conntrack import VALUE, CtEntry, CtFlags

AT = VALUE.offset("lifetime")


def _values(*lifetimes: int) -> bytes:
    return b"".join(CtEntry(1, lifetime, 2, 3, 4, 5, CtFlags(0), 6, 7).pack() for lifetime in lifetimes)


def test_an_entry_goes_when_its_grace_is_over() -> None:
    now = 1000
    values = _values(now - GRACE_S - 1, now - GRACE_S, now, now + 1, 0)
    assert expired(b"aabbccddee", values, 5, now, AT) == [b"aa", b"ee"]


def test_nothing_goes_while_all_live() -> None:
    assert expired(b"ab", _values(10, 0xFFFFFFFF), 2, 10, AT) == []
