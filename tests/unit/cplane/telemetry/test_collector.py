"""The garbage collector: what a large piece of work leaves is never looked through."""

import gc

import pytest

from cplane.telemetry import collector
from cplane.telemetry.collector import without_collector


def test_nobody_looks_meanwhile_and_then_as_before():
    assert gc.isenabled()
    with without_collector():
        assert not gc.isenabled()
        with without_collector():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.mark.parametrize(("made", "kept"), [(2_000, True), (10, False)])
def test_what_are_very_many_are_looked_through_by_nobody(
    monkeypatch: pytest.MonkeyPatch, made: int, *, kept: bool
) -> None:
    monkeypatch.setattr(collector, "_MANY", 1_000)
    gc.collect()
    before = gc.get_freeze_count()
    try:
        with without_collector():
            held = [[] for _ in range(made)]
        assert len(held) == made
        assert (gc.get_freeze_count() >= before + made) is kept
    finally:
        gc.unfreeze()
