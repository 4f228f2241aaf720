"""The machine's clocks."""

from cplane.telemetry.clock import SystemClock


def test_the_boot_offset_turns_boot_time_into_utc():
    clock = SystemClock()
    before = clock.now_ns()
    computed = clock.boot_ns() + clock.boot_offset_ns()
    assert abs(computed - before) < 1_000_000_000


def test_the_monotonic_clock_never_steps_back():
    clock = SystemClock()
    first = clock.monotonic_ns()
    assert clock.monotonic_ns() >= first


def test_ids_are_32_digits_and_differ():
    clock = SystemClock()
    ids = {clock.new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in ids)
