"""What any event log must do, whatever keeps its events; an implementation gives `make`."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path

import anyio
import msgspec
import pytest

from cplane.eventlog.chain import READ_MAX
from cplane.eventlog.errors import StreamConflict, Unwritable
from cplane.events.envelope import IPAM, NODE, POLICY, Envelope
from cplane.events.policy import PolicyUpserted
from tests.support.log import digests, everything, fact, fill, proposal


def policy(document: str) -> PolicyUpserted:
    return PolicyUpserted(kind="CiliumNetworkPolicy", namespace="shop", name="p", document=document)


async def first(log, count: int, after: int = 0) -> list[Envelope]:
    """So many events of a tail."""
    found: list[Envelope] = []
    async with aclosing(log.tail(after)) as batches:
        async for batch in batches:
            assert batch, "a tail gives no empty batch"
            found += batch
            if len(found) >= count:
                break
    return found


@pytest.mark.anyio
class EventLogContract:
    """The cases. The clock of the log is a TickingClock."""

    def make(self, folder: Path) -> AbstractAsyncContextManager:
        """An empty log, which may keep files in `folder`."""
        raise NotImplementedError

    @pytest.fixture
    async def log(self, anyio_backend, tmp_path):
        async with self.make(tmp_path) as made:
            yield made

    async def test_a_new_log_is_empty(self, log):
        assert (log.head, log.digest) == (0, bytes(32))
        assert list(await log.read()) == []

    async def test_an_append_answers_with_what_is_in_the_log(self, log):
        written = await log.append(proposal(0, fact(1), policy("{}"), stream=NODE, actor="cni", cause="request 7"))
        assert [(one.position, one.stream, one.version, one.event) for one in written] == [
            (1, NODE, 1, fact(1)),
            (2, NODE, 2, policy("{}")),
        ]
        assert {(one.actor, one.cause) for one in written} == {("cni", "request 7")}
        assert list(await log.read()) == list(written)
        assert (log.head, log.digest) == (2, written[-1].digest)

    async def test_positions_have_no_gaps_and_versions_count_in_their_stream(self, log):
        for version in range(3):
            await log.append(proposal(version, stream=NODE))
            await log.append(proposal(version, stream=IPAM))
        found = await everything(log)
        assert [one.position for one in found] == [1, 2, 3, 4, 5, 6]
        assert [(one.stream, one.version) for one in found] == [(s, v) for v in (1, 2, 3) for s in (NODE, IPAM)]

    async def test_events_are_recorded_at_the_time_of_the_recorders_clock(self, log):
        times = [one.recorded_at_ns for one in await fill(log, 3, batch=1)]
        assert times == sorted(set(times))

    async def test_the_digests_chain_the_canonical_bytes(self, log):
        await log.append(proposal(0, fact(1), fact(2)))
        await log.append(proposal(0, policy('{"a": "ü"}'), stream=POLICY, actor="uid:0(root)", cause=""))
        found = await everything(log)
        assert [one.digest for one in found] == digests(found, [msgspec.json.encode(one.event) for one in found])

    @pytest.mark.parametrize("text", ["", "ü 漢 🐝", "a\0b", "'; DROP TABLE events; --", "line\nline", "x" * 100_000])
    async def test_any_text_comes_back_as_it_was(self, log, text):
        written = await log.append(proposal(0, policy(text), stream=POLICY, actor=text, cause=text))
        (found,) = await log.read()
        assert found == written[0]
        assert (found.actor, found.cause, found.event) == (text, text, policy(text))

    async def test_an_append_of_no_events_changes_nothing(self, log):
        await fill(log, 2)
        empty = proposal(2)
        assert list(await log.append(msgspec.structs.replace(empty, events=()))) == []
        with pytest.raises(StreamConflict):
            await log.append(msgspec.structs.replace(empty, events=(), expected={NODE: 1}))
        assert log.head == 2

    # Refusals

    async def test_a_stream_at_another_version_is_a_conflict_and_nothing_is_written(self, log):
        await fill(log, 2)
        for at in (0, 1, 3):
            with pytest.raises(StreamConflict) as refused:
                await log.append(proposal(at, fact(9), fact(10)))
            assert (refused.value.stream, refused.value.expected, refused.value.actual) == (NODE, at, 2)
        assert log.head == 2
        assert [one.position for one in await log.append(proposal(2))] == [3]

    async def test_a_stream_that_the_events_do_not_touch_can_be_expected_too(self, log):
        await fill(log, 1)
        with pytest.raises(StreamConflict, match="stream 'ipam' is at version 0"):
            await log.append(proposal(1, ipam=1))
        await log.append(proposal(1, ipam=0))
        assert log.head == 2

    @pytest.mark.parametrize(
        "broken",
        [
            proposal(1, actor="\ud800"),
            proposal(1, cause="\ud800"),
            proposal(1, fact(1), policy("\ud800")),
            proposal(1, fact(1), policy("x" * (16 << 20))),
            msgspec.structs.replace(proposal(1), actor="x" * (16 << 20)),
        ],
        ids=["actor", "cause", "event", "event too long", "actor too long"],
    )
    async def test_what_could_not_be_read_back_is_refused_and_nothing_is_written(self, log, broken):
        await fill(log, 1)
        with pytest.raises(Unwritable, match=r"cannot be stored: .*; nothing was written"):
            await log.append(broken)
        await fill(log, 1)
        assert [one.event for one in await everything(log)] == [fact(1), fact(2)]

    async def test_events_that_expect_no_version_are_a_bug_and_nothing_is_written(self, log):
        with pytest.raises(AssertionError, match="'node' and do not say which version"):
            await log.append(msgspec.structs.replace(proposal(0), expected={IPAM: 0}))
        assert log.head == 0

    # Many at once

    async def test_of_many_that_decided_on_one_version_one_wins(self, log):
        await fill(log, 1)
        won, lost = [], []

        async def race(number: int) -> None:
            try:
                won.append(await log.append(proposal(1, fact(number), fact(number))))
            except StreamConflict:
                lost.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(race, number)
        assert (len(won), len(lost)) == (1, 19)
        assert list((await log.read())[1:]) == list(won[0])

    async def test_those_who_append_at_once_all_get_their_own_place(self, log):
        answers: list[Sequence[Envelope]] = []

        async def client(stream: str) -> None:
            asked = [proposal(version, fact(version), fact(version + 1), stream=stream) for version in range(0, 20, 2)]
            answers.extend([await log.append(one) for one in asked])

        async with anyio.create_task_group() as tasks:
            for number in range(16):
                tasks.start_soon(client, f"s{number}")
        found = await everything(log)
        assert [one.position for one in found] == list(range(1, 16 * 20 + 1))
        by_position = {one.position: one for one in found}
        for answer in answers:
            assert [by_position[one.position] for one in answer] == list(answer)
            assert answer[1].position == answer[0].position + 1, "events of one append stand together"
        for number in range(16):
            mine = [one for one in found if one.stream == f"s{number}"]
            assert [(one.version, one.event) for one in mine] == [(v + 1, fact(v)) for v in range(20)]

    async def test_conflicts_do_not_disturb_those_beside_them(self, log):
        outcomes = []

        async def client(number: int) -> None:
            at = 0 if number % 3 else 5  # every third is wrong about its stream
            try:
                await log.append(proposal(at, stream=f"s{number}"))
            except StreamConflict:
                outcomes.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(client, number)
        assert sorted(outcomes) == [number for number in range(30) if number % 3 == 0]
        assert {one.stream for one in await everything(log)} == {f"s{number}" for number in range(30) if number % 3}

    @pytest.mark.parametrize("turns", range(6))
    async def test_a_cancelled_append_happened_or_did_not_and_the_log_goes_on(self, log, turns):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(log.append, proposal(0, fact(1), fact(2)))
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        with pytest.raises(StreamConflict):  # answered behind the cancelled one, whatever became of that
            await log.append(proposal(7))
        version = log.head
        assert version in {0, 2}
        await log.append(proposal(version))
        assert [one.version for one in await everything(log)] == list(range(1, version + 2))

    # Reading

    async def test_reading_starts_behind_a_position_and_stops_at_a_limit(self, log):
        written = await fill(log, 10)
        for after in (-5, 0, 3, 9, 10, 11, 500):
            for limit in (-1, 0, 1, 4, 10, 1 << 40):
                expected = written[max(after, 0) :][: max(limit, 0)]
                assert list(await log.read(after, limit)) == list(expected), (after, limit)

    @pytest.mark.slow
    async def test_one_answer_is_bounded(self, log):
        await fill(log, READ_MAX + 1, batch=5000)
        assert len(await log.read(limit=1 << 40)) == READ_MAX

    # Following

    @pytest.mark.parametrize("after", [-1, 0, 1, 4, 5])
    async def test_a_tail_gives_what_is_there_and_then_what_comes(self, log, after):
        await fill(log, 5)
        found: list[Envelope] = []

        async def follow() -> None:
            found.extend(await first(log, 10 - max(after, 0), after))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
                await fill(log, 1)
        assert found == (await everything(log))[max(after, 0) :]

    async def test_a_tail_from_beyond_the_end_waits_for_its_position(self, log):
        found: list[Envelope] = []

        async def follow() -> None:
            found.extend(await first(log, 1, 3))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await fill(log, 4, batch=1)
        assert [one.position for one in found] == [4]

    @pytest.mark.slow
    async def test_tails_of_any_start_see_every_event_once_while_many_write(self, log):
        total, seen = 400, {}

        async def write(stream: str) -> None:
            for version in range(total // 8):
                await log.append(proposal(version, stream=stream))

        async def follow(number: int) -> None:
            await first(log, number * 16)
            after = log.head if number % 2 else log.head // 2
            seen[number] = (after, await first(log, total - after, after))

        async with anyio.create_task_group() as tasks:
            for number in range(1, 17):
                tasks.start_soon(follow, number)
            for number in range(8):
                tasks.start_soon(write, f"s{number}")
        whole = await everything(log)
        assert len(whole) == total
        assert all(found == whole[after:] for after, found in seen.values())
        assert len({after for after, _ in seen.values()}) > 2, "they began at different places"

    async def test_a_tail_that_is_not_read_holds_nobody_up(self, log):
        await fill(log, 1)
        async with aclosing(log.tail()) as batches:
            seen = list(await anext(batches))
            await fill(log, 2500)
            async for batch in batches:
                seen += batch
                if len(seen) == log.head:
                    break
        assert seen == await everything(log)

    async def test_a_tail_can_be_left_while_it_waits(self, log):
        with anyio.CancelScope() as scope:
            async with aclosing(log.tail()) as batches, anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.lowlevel.checkpoint)
                scope.cancel()
                await anext(batches)
        assert scope.cancelled_caught
        await fill(log, 1)
