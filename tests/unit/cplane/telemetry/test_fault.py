"""Faults that repeat."""

from cplane.telemetry.fault import Fault


def test_a_fault_is_told_once_until_it_is_another_or_was_over() -> None:
    told: list[str] = []
    fault = Fault(told.append)
    for text in ("", "full", "full", "away", "away", "full", "", "full"):
        fault.now(text)
    assert told == ["full", "away", "full", "full"]
