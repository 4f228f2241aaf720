"""What was refused is kept, up to a number, and never in anybody's way."""

import sqlite3

import anyio
import anyio.lowlevel
import pytest

from cplane.eventlog import refusals as module
from cplane.eventlog.refusals import KEPT, WAITING_MAX, Refusals, RefusalsFile, place_of, read_refusals
from cplane.timetravel.refused import Refused

pytestmark = pytest.mark.anyio


def refused(number: int, message: str = "no") -> Refused:
    return Refused(
        recorded_at_ns=number,
        actor="uid:0(root)",
        cause="",
        command="apply policies",
        objects=(f"policy CiliumNetworkPolicy/shop/p{number}",),
        code="policy.invalid",
        message=message,
    )


async def kept(log, *some: Refused) -> Refusals:
    made = Refusals(RefusalsFile(str(log)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.run)
        await anyio.lowlevel.checkpoint()
        for one in some:
            made.add(one)
        tasks.cancel_scope.cancel()
    return made


async def test_they_are_read_as_they_were_told_in_order(tmp_path) -> None:
    some = [refused(number) for number in range(5)]
    await kept(tmp_path / "log.db", *some[:3])
    await kept(tmp_path / "log.db", *some[3:])
    assert list(read_refusals(str(tmp_path / "log.db"))) == some


async def test_the_newest_are_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "KEPT", 10)
    for start in range(0, 30, 10):
        await kept(tmp_path / "log.db", *(refused(number) for number in range(start, start + 10)))
    assert [one.recorded_at_ns for one in read_refusals(str(tmp_path / "log.db"))] == list(range(20, 30))


async def test_of_too_many_at_once_the_rest_is_counted(tmp_path) -> None:
    made = await kept(tmp_path / "log.db", *(refused(number) for number in range(WAITING_MAX + 5)))
    assert made.lost == 5
    assert len(list(read_refusals(str(tmp_path / "log.db")))) == WAITING_MAX


async def test_what_cannot_be_written_is_counted(tmp_path) -> None:
    made = await kept(tmp_path / "nobody" / "log.db", refused(1))
    assert made.lost == 1
    assert list(read_refusals(str(tmp_path / "nobody" / "log.db"))) == []


async def test_a_file_that_is_none_is_read_as_empty(tmp_path) -> None:
    (tmp_path / "log.db.refused").write_bytes(b"x" * 10_000)
    assert list(read_refusals(str(tmp_path / "log.db"))) == []
    made = await kept(tmp_path / "log.db", refused(1))
    assert made.lost == 1


async def test_texts_are_bounded_and_half_a_character_is_none(tmp_path) -> None:
    await kept(tmp_path / "log.db", refused(1, "x" * 10_000), refused(2, "\ud800"))
    first, second = read_refusals(str(tmp_path / "log.db"))
    assert len(first.message) < 10_000
    assert second.message == "?"


class Away:
    """A place that comes back after a while."""

    is_patient = True

    def __init__(self) -> None:
        self.away = True
        self.tried = 0
        self.has: list[Refused] = []

    def write(self, some) -> bool:
        self.tried += 1
        if not self.away:
            self.has += some
        return not self.away


async def test_what_a_patient_place_cannot_take_waits_and_keeps_its_order(monkeypatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", 0.0)
    monkeypatch.setattr(module, "_AWAY_S", 0.0)
    place = Away()
    made = Refusals(place)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.run)
        for number in range(WAITING_MAX + 3):
            made.add(refused(number))
        while place.tried < 3:  # noqa: ASYNC110  # what another thread does rings no bell
            await anyio.sleep(0.001)
        assert (place.has, made.lost) == ([], 3)
        place.away = False
        while len(place.has) < WAITING_MAX:  # noqa: ASYNC110  # as above
            await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()  # what is written keeps its room until its writer has come back
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.run)
        await anyio.lowlevel.checkpoint()
        made.add(refused(WAITING_MAX))
        tasks.cancel_scope.cancel()
    assert [one.recorded_at_ns for one in place.has] == [*range(WAITING_MAX), WAITING_MAX]
    assert made.lost == 3


async def test_what_a_patient_place_never_takes_is_counted_at_the_end() -> None:
    place = Away()
    made = Refusals(place)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.run)
        await anyio.lowlevel.checkpoint()
        made.add(refused(1))
        tasks.cancel_scope.cancel()
    assert (place.tried, made.lost) == (1, 1)


async def test_without_a_file_the_newest_are_in_memory() -> None:
    made = Refusals(None)
    for number in range(KEPT + 3):
        made.add(refused(number))
    assert [one.recorded_at_ns for one in made.in_memory()] == list(range(3, KEPT + 3))


async def test_only_its_owner_may_read_the_file(tmp_path) -> None:
    await kept(tmp_path / "log.db", refused(1))
    path = tmp_path / "log.db.refused"
    assert str(path) == place_of(str(tmp_path / "log.db"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert sqlite3.connect(path).execute("SELECT count(*) FROM refusals").fetchone() == (1,)
