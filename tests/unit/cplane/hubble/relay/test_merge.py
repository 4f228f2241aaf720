"""What a merge promises: everything once, each source in its order, all by time where that can be known."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cplane.hubble.relay.merge import Merge, Waiting
from tests.support.relay_frames import batch_of, flow_at, parsed

NS = 1_000_000_000
LATE = 10**18  # the present: after every time here

times = st.lists(st.integers(0, 40), max_size=12)


@dataclass
class Run:
    """A merge and the clock it goes by."""

    merge: Merge
    now: int = 0
    given: list[tuple[int, str]] = field(default_factory=list)

    def push(self, source: str, *at: int, present: int = LATE) -> None:
        """Flows of these times, each with the name of its source and its number there."""
        batch = batch_of(*(flow_at(time, f"{source}{time}") for time in at))
        self.merge.push(source, batch, self.now, present)

    def take(self) -> list[str]:
        """All that may go now."""
        found = []
        while (merged := self.merge.take(self.now)) is not None:
            frames = merged.frames
            assert b"".join(merged.pieces) == b"".join(frames)
            found += [one.flow.uuid for one in parsed(frames)]
        return found


def run(*sources: str, window: int = 100, follow: bool = False, history: bool = True) -> Run:
    made = Run(Merge(Waiting(window=window, drain_ns=NS, follow=follow, history=history)))
    for source in sources:
        made.merge.open(source, 0)
    return made


def pieces(data: st.DataObject, sequence: Sequence[int]) -> list[list[int]]:
    """The sequence in batches that are not empty."""
    cuts = sorted(set(data.draw(st.lists(st.integers(0, len(sequence)), max_size=4))) | {0, len(sequence)})
    return [list(sequence[a:b]) for a, b in pairwise(cuts) if a < b]


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from("abcd"), times.map(sorted), min_size=1), st.data())
def test_ordered_sources_merge_to_the_sorted_union_however_they_are_cut_and_interleaved(
    sources: dict[str, list[int]], data: st.DataObject
) -> None:
    one = run(*sources)
    left = {name: pieces(data, sequence) for name, sequence in sources.items()}
    given_: list[str] = []
    while left:
        name = data.draw(st.sampled_from(sorted(left)))
        if left[name]:
            one.push(name, *left[name].pop(0))
        else:
            one.merge.close(name)
            del left[name]
        given_ += one.take()
    assert len(one.merge) == 0
    assert one.merge.held == 0
    assert [int(text[1:]) for text in given_] == sorted(time for sequence in sources.values() for time in sequence)


@pytest.mark.slow
@given(
    st.dictionaries(st.sampled_from("abcd"), times, min_size=1),
    st.booleans(),
    st.integers(1, 4),
    st.data(),
)
def test_whatever_sources_claim_everything_is_given_once_and_in_the_order_of_its_source(
    sources: dict[str, list[int]], follow: bool, window: int, data: st.DataObject
) -> None:
    one = run(*sources, window=window, follow=follow)
    left = {name: pieces(data, sequence) for name, sequence in sources.items()}
    given_: list[str] = []
    while left:
        name = data.draw(st.sampled_from(sorted(left)))
        if left[name]:
            one.push(name, *left[name].pop(0), present=data.draw(st.integers(0, 50)))
        else:
            one.merge.close(name)
            del left[name]
        one.now += data.draw(st.sampled_from([0, NS // 100, NS, 70 * NS]))
        given_ += one.take()
    assert one.merge.held == 0
    for name, sequence in sources.items():
        assert [text for text in given_ if text[0] == name] == [f"{name}{time}" for time in sequence]


@pytest.mark.slow
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40)), max_size=30), st.booleans())
def test_what_is_held_can_go_at_the_deadline_at_last(pushes: list[tuple[str, int]], follow: bool) -> None:
    one = run("a", "b", follow=follow)
    for name, time in pushes:
        one.push(name, time)
    for _ in range(100):
        one.take()
        deadline = one.merge.deadline_ns(one.now)
        if deadline is None:
            break
        assert deadline > one.now
        one.now = deadline
    assert one.merge.held == 0


def test_a_source_that_has_not_answered_is_waited_for() -> None:
    one = run("a", "b")
    one.push("a", 5, 6)
    assert one.take() == []
    one.push("b", 3, 7)
    assert one.take() == ["b3", "a5", "a6"]


def test_the_wait_ends_with_the_drain_timeout() -> None:
    one = run("a", "b")
    one.push("a", 5)
    one.now = NS
    assert one.take() == []
    assert one.merge.deadline_ns(one.now) == NS + 1
    one.now = NS + 1
    assert one.take() == ["a5"]


def test_a_source_that_comes_back_is_waited_for_again_and_what_is_late_is_given_at_once() -> None:
    one = run("a", "b")
    one.push("a", 5)
    one.now = 2 * NS
    one.take()
    one.push("b", 3)
    assert one.take() == ["b3"]
    one.push("a", 9)
    assert one.take() == []


def test_a_follower_waits_only_a_moment_when_more_than_the_window_is_held() -> None:
    one = run("a", "b", window=3, follow=True, history=False)
    one.push("a", 1, 2, 3)
    one.now = NS // 10
    assert one.take() == []
    one.push("a", 4)
    assert one.take() == ["a1", "a2", "a3"]
    assert one.merge.held == 1


def test_flows_of_the_past_are_waited_for_even_when_more_than_the_window_is_held() -> None:
    one = run("a", "b", window=3, follow=True)
    one.push("a", 1, 2, 3, 4)
    one.now = NS // 10
    assert one.take() == []


def test_flows_of_one_time_stay_in_the_order_in_which_they_came() -> None:
    one = run("a")
    batch = batch_of(*(flow_at(5, str(number)) for number in range(50)))
    one.merge.push("a", batch, 0, LATE)
    assert one.take() == [str(number) for number in range(50)]


def test_a_source_that_lives_in_the_past_for_ever_stops_no_other() -> None:
    one = run("liar", "b", follow=True)
    one.push("b", 500)
    given_: list[str] = []
    for turn in range(20):
        one.push("liar", 1)
        given_ += one.take()
        one.now += NS
        assert ("b500" in given_) is (turn > 10)
    assert one.merge.left_behind == 1
    one.push("b", 600)
    one.push("liar", 1)
    assert "b600" in one.take()


def test_a_source_from_the_future_is_taken_to_be_of_the_present() -> None:
    one = run("liar", "b")
    one.push("liar", 10**15, present=50)
    one.push("b", 60, present=60)
    assert one.take() == ["liar1000000000000000"]
    one.push("liar", 10**15, present=70)
    assert one.take() == ["b60"]


def test_a_message_without_a_time_is_of_the_time_of_the_one_before() -> None:
    one = run("a", "b")
    timeless = flow_at(0, "timeless")
    timeless.ClearField("time")
    one.merge.push("a", batch_of(flow_at(10, "a10"), timeless, flow_at(20, "a20")), 0, LATE)
    one.push("b", 15, 30)
    assert one.take() == ["a10", "timeless", "b15", "a20"]


def test_a_closed_source_holds_nobody_up() -> None:
    one = run("a", "b")
    one.push("a", 1, 5)
    one.push("b", 9)
    one.merge.close("a")
    assert one.take() == ["a1", "a5", "b9"]
    assert len(one.merge) == 1


def test_what_is_held_of_a_source_is_counted_in_bytes() -> None:
    one = run("a", "b")
    assert one.merge.size("a") == 0
    one.push("a", 1)
    assert one.merge.size("a") == batch_of(flow_at(1, "a1")).size
    one.push("b", 2)
    one.take()
    assert (one.merge.size("a"), one.merge.size("nobody")) == (0, 0)


def test_a_source_is_not_opened_twice() -> None:
    one = run("a")
    with pytest.raises(AssertionError, match="open already"):
        one.merge.open("a", 0)
