"""One recorded flow by its uuid, as whoever asks why about it reads it."""

import numpy as np
from hypothesis import given, settings

from cplane.agent.recorded import flow_line
from cplane.timetravel.flows import pick_flow
from tests.support.flows import record_batches, records, store_of


@settings(max_examples=20, deadline=None)
@given(record_batches())
def test_every_flow_of_the_ring_is_found_by_its_uuid(batch: np.ndarray) -> None:
    store = store_of(batch)
    for position in range(store.ring.oldest, store.ring.written):
        uuid = store.ids.text(position)
        line = flow_line(store, uuid)
        assert line is not None
        found = pick_flow([line], uuid)
        assert found.position == int(store.ring.span(position, position + 1)["origin"][0])
        assert found.recorded_at_ns() // 1000 == int(store.ring.span(position, position + 1)["time_ns"][0]) // 1000


def test_what_is_not_there_any_more_or_never_was_is_not_found() -> None:
    store = store_of(*(records({}) for _ in range(6)), capacity=4)
    assert store.ring.oldest > 0
    for position in (0, store.ring.written):
        assert flow_line(store, store.ids.text(position)) is None
    assert flow_line(store, "00000000-0000-4000-8000-000000000000") is None
    assert flow_line(store, "nothing") is None
