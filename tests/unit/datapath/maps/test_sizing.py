"""How large maps are, by memory and by what is said."""

import pytest

from datapath.maps import catalog, conntrack, lb
from datapath.maps.sizing import ENTRIES_MAX, FLEXIBLE, sizes

GIB = 1 << 30
CATALOGUE = {spec.name: spec.max_entries for spec in catalog.SPECS}


@pytest.mark.parametrize(("memory", "tracked"), [(GIB, 1 << 17), (24 * GIB, 192_025), (1 << 50, ENTRIES_MAX)])
def test_conntrack_grows_with_the_memory_between_a_least_and_a_most(memory: int, tracked: int) -> None:
    found = sizes(memory)
    assert found[conntrack.SPEC4.name] == found[conntrack.SPEC6.name] == tracked
    assert found.keys() <= FLEXIBLE <= CATALOGUE.keys()


def test_what_traffic_fills_takes_no_more_than_its_share() -> None:
    """Where that is more than the least."""
    specs = {spec.name: spec for spec in catalog.SPECS}
    taken = sum(
        entries * (specs[name].key_size + specs[name].value_size + 64) for name, entries in sizes(256 * GIB).items()
    )
    assert 0.99 < taken / (256 * GIB * 0.0025) <= 1


def test_without_a_share_the_catalogue_says_it() -> None:
    assert sizes(GIB, ratio=0) == {}


def test_what_is_said_counts() -> None:
    found = sizes(GIB, conntrack_max=5000, services_max=100_000)
    assert found[conntrack.SPEC4.name] == found[conntrack.SPEC6.name] == 5000
    assert {found[spec.name] for spec in (lb.SLOTS, lb.BACKENDS, lb.MEMBERS, lb.SKIPS, lb.RANGES)} == {100_000}
    assert found[lb.SERVICES.name] == 65_535, "a frontend's number has 16 bits"
    assert lb.MAGLEV.name not in found
