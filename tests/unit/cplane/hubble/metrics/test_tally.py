"""Kinds are counted by number; endpoints that look the same are one."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cplane.hubble.endpoint import NOBODY, EndpointMeta
from cplane.hubble.interned import Interned
from cplane.hubble.metrics.kind import Representatives
from cplane.hubble.metrics.tally import Tally
from cplane.telemetry.metrics import Count

_BATCHES = st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=6), max_size=8)


@given(batches=_BATCHES, settled=st.sets(st.integers(0, 7)), forgotten=st.sets(st.integers(0, 7)))
def test_series_have_what_their_kinds_had_however_often_they_are_settled(
    batches: list[list[tuple[int, int]]], settled: set[int], forgotten: set[int]
) -> None:
    series = [Count() for _ in range(3)]
    expected: Counter[int] = Counter()
    tally = Tally(lambda kind: (series[kind[0] % 3], series[0]))  # two kinds share each series, and all the first
    for number, batch in enumerate(batches):
        tally.add([bytes([kind]) for kind, _ in batch], np.array([count for _, count in batch], np.intp))
        for kind, count in batch:
            expected[kind % 3] += count
            expected[0] += count
        if number in settled:
            tally.settle()
        if number in forgotten:
            tally.forget()
            assert len(tally) == 0
    tally.settle()
    assert [one.value for one in series] == [expected[number] for number in range(3)]


def test_there_is_room_for_any_number_of_kinds() -> None:
    series = Count()
    tally = Tally(lambda _: (series,))
    kinds = [number.to_bytes(4, "big") for number in range(5000)]
    tally.add(kinds, np.ones(5000, np.intp))
    tally.settle()
    assert (len(tally), series.value) == (5000, 5000)


def test_endpoints_that_look_the_same_are_one() -> None:
    endpoints: Interned[EndpointMeta] = Interned(NOBODY)
    numbers = [endpoints.number(EndpointMeta(i, namespace=f"n{i % 2}", pod_name=f"p{i}")) for i in range(4)]
    stand_ins = Representatives(endpoints, lambda meta: meta.namespace)
    assert stand_ins.of(np.array([0, *numbers], np.uint32)).tolist() == [0, 1, 2, 1, 2]
    late = endpoints.number(EndpointMeta(9, namespace="n1", pod_name="late"))
    assert stand_ins.of(np.array([late], np.uint32)).tolist() == [2]


def test_a_number_with_a_new_meaning_is_looked_at_anew() -> None:
    endpoints: Interned[EndpointMeta] = Interned(NOBODY)
    first, second = (endpoints.number(EndpointMeta(namespace=name)) for name in ("a", "b"))
    stand_ins = Representatives(endpoints, lambda meta: meta.namespace)
    assert stand_ins.of(np.array([first, second], np.uint32)).tolist() == [1, 2]
    endpoints.collect([np.array([second], np.uint32)])
    assert endpoints.number(EndpointMeta(namespace="b", pod_name="other")) == first
    assert stand_ins.of(np.array([first, second], np.uint32)).tolist() == [1, 1]
