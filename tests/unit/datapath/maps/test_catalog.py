"""The one list of maps: names, numbers and shapes that the kernel takes."""

from datapath.maps.catalog import LAYOUTS, SPECS, proofs
from datapath.maps.spec import MapKind
from datapath.notify.records import RECORD


def test_names_and_numbers_are_unique_and_short() -> None:
    assert len({spec.name for spec in SPECS}) == len({spec.slot for spec in SPECS}) == len(SPECS)
    assert all(spec.name.startswith("cplane_") and len(spec.name) <= 15 for spec in SPECS)
    assert all(0 < spec.slot < 256 for spec in SPECS)


def test_only_the_ring_has_no_layouts() -> None:
    for spec in SPECS:
        assert (spec.key is None) == (spec.value is None) == (spec.kind is MapKind.RINGBUF)


def test_the_ring_is_a_power_of_two_of_pages() -> None:
    (ring,) = (spec for spec in SPECS if spec.kind is MapKind.RINGBUF)
    assert ring.max_entries & (ring.max_entries - 1) == 0
    assert ring.max_entries % 4096 == 0


def test_every_layout_has_its_proof() -> None:
    text = proofs(RECORD)
    for layout in (*LAYOUTS, RECORD):
        assert f"sizeof(struct {layout.c_name}) == {layout.size}" in text
