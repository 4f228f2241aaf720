"""Logs of many nodes in one PostgreSQL database: whose they are, what is refused, and how they are read."""

from contextlib import asynccontextmanager

import anyio
import psycopg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from cplane.eventlog import database, postgres_writer
from cplane.eventlog.database import Place
from cplane.eventlog.errors import (
    BadEvent,
    LogLocked,
    NewerSchema,
    NoSuchNode,
    NotALog,
    OutcomeUnknown,
    StorageFailed,
)
from cplane.eventlog.postgres import PostgresLog
from cplane.eventlog.reader import open_history
from cplane.eventlog.schema import REVISIONS
from cplane.eventlog.sqlite import migrations
from cplane.eventlog.store import SqliteLog
from cplane.eventlog.verify import verify_file
from cplane.events.policy import PolicyUpserted
from cplane.timetravel.wanted import Wanted
from tests.support.clock import TickingClock
from tests.support.log import everything, fact, fill, proposal
from tests.support.postgres import NEEDS_POSTGRES, STRICT
from tests.support.postgres_proxy import Proxy

pytestmark = [pytest.mark.anyio, pytest.mark.slow, NEEDS_POSTGRES]


@pytest.fixture
def anyio_backend():
    return "asyncio"  # the contract runs on both


@pytest.fixture
def name(postgres):
    with postgres.database() as made:
        yield made


def opened(url: str, node: str = "n1"):
    return PostgresLog.open(url, TickingClock(), node=node)


@asynccontextmanager
async def one_log(url: str, count: int = 3, node: str = "n1"):
    async with opened(url, node) as log:
        await fill(log, count, batch=1)
        yield log


# Nodes


async def test_each_node_has_positions_and_a_chain_of_its_own(postgres, name):
    url = postgres.url(name)
    async with opened(url, "n1") as first, opened(url, "n2") as second:
        for log, count in ((first, 3), (second, 5)):
            await fill(log, count, batch=1)
            assert [one.position for one in await everything(log)] == list(range(1, count + 1))
        heads = {"n1": first, "n2": second}
        for node, log in heads.items():
            found = verify_file(f"{url}&node={node}")
            assert (found.events, found.digest, found.fault) == (log.head, log.digest.hex(), "")


async def test_a_log_goes_on_where_it_ended(postgres, name):
    async with one_log(postgres.url(name)) as log:
        before = await everything(log)
    async with opened(postgres.url(name)) as log:
        assert await everything(log) == before
        await fill(log, 1)
        assert log.head == 4


async def test_a_second_writer_of_a_node_is_refused_and_hears_who_has_the_log(postgres, name):
    async with one_log(postgres.url(name)):
        with pytest.raises(LogLocked, match=r"node=n1 is in use by process \d+ of the database \(user cptroot, from a"):
            async with opened(postgres.url(name)):
                pass
    async with opened(postgres.url(name)) as log:
        assert log.head == 3


async def test_texts_that_the_database_cannot_keep_come_back_as_they_were(postgres, name):
    texts = ("\0", "\\", "\\0", "\\\0", "\\\\0", "\0\\\\\0", "a\\b")
    async with opened(postgres.url(name)) as log:
        for number, text in enumerate(texts):
            await log.append(proposal(0, fact(number), stream=f"s{text}", actor=text, cause=text))
        found = await everything(log)
    assert [(one.stream, one.actor, one.cause) for one in found] == [(f"s{text}", text, text) for text in texts]
    assert verify_file(postgres.url(name)).fault == ""


async def test_a_batch_of_many_megabytes_is_written_as_one(postgres, name, monkeypatch):
    monkeypatch.setattr(postgres_writer, "_CHUNK_BYTES", 1000)
    async with opened(postgres.url(name)) as log:
        written = await log.append(proposal(0, *(fact(number) for number in range(100))))
        assert await everything(log) == list(written)
    assert verify_file(postgres.url(name)).events == 100


# What others do to the database


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM events WHERE position = 3",
        "UPDATE events SET digest = '\\x00' WHERE position = 3",
        "INSERT INTO events SELECT 4, stream, 4, type, schema, 1, actor, '', data, '1', node FROM events LIMIT 1",
    ],
    ids=["restored from a backup", "changed", "written by another"],
)
async def test_a_log_that_ends_elsewhere_takes_nothing(postgres, name, change):
    async with one_log(postgres.url(name)) as log:
        postgres.execute(change, name)
        before = postgres.execute("SELECT * FROM events ORDER BY position", name)
        for _ in range(2):
            with pytest.raises(BadEvent, match="somebody else writes, or the database was restored"):
                await log.append(proposal(3))
        assert postgres.execute("SELECT * FROM events ORDER BY position", name) == before


@pytest.mark.parametrize(
    ("change", "position", "reason"),
    [
        ("UPDATE events SET actor = 'x' WHERE position = 2", 2, "its digest does not fit"),
        ("DELETE FROM events WHERE position = 2", 2, "the event is missing"),
        ("UPDATE events SET actor = E'\\\\\\\\x' WHERE position = 1", 1, "its digest does not fit"),
        ("UPDATE events SET actor = E'\\\\x' WHERE position = 1", 1, "stands for nothing"),
    ],
)
async def test_what_was_changed_is_found(postgres, name, change, position, reason):
    async with one_log(postgres.url(name)):
        pass
    postgres.execute(change, name)
    found = verify_file(postgres.url(name))
    assert (found.position, found.events) == (position, position - 1)
    assert reason in found.fault
    with pytest.raises(BadEvent, match=reason):
        async with opened(postgres.url(name)):
            pass


# Lost connections


async def test_a_session_that_was_ended_is_replaced_and_nobody_notices(postgres, name):
    async with one_log(postgres.url(name)) as log:
        for number in range(3):
            postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            await log.append(proposal(3 + number))
            assert len(await everything(log)) == log.head == 4 + number


async def test_an_append_whose_answer_was_lost_is_found_in_the_database(postgres, name, tmp_path_factory):
    folder = tmp_path_factory.mktemp("p")
    with Proxy(folder, postgres.folder) as proxy:
        async with opened(postgres.url(name).replace(str(postgres.folder), str(folder))) as log:
            await fill(log, 1)
            answers = []

            async def append():
                answers.append(await log.append(proposal(1)))

            async with anyio.create_task_group() as tasks:
                proxy.lose_the_next_answer()
                tasks.start_soon(append)
                while postgres.execute("SELECT max(position) FROM events", name) != [(2,)]:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                await anyio.sleep(0.1)
                proxy.come_back()
            assert [one.position for one in answers[0]] == [2]
            assert await everything(log) == [*(await log.read(limit=1)), *answers[0]]


async def test_nobody_is_told_a_guess_and_the_log_goes_on_with_what_is_there(
    postgres, name, tmp_path_factory, monkeypatch
):
    monkeypatch.setattr(postgres_writer, "_ASK_S", 0.2)
    folder = tmp_path_factory.mktemp("p")
    with Proxy(folder, postgres.folder) as proxy:
        async with opened(postgres.url(name).replace(str(postgres.folder), str(folder))) as log:
            await fill(log, 1)
            proxy.lose_the_next_answer()
            with pytest.raises(OutcomeUnknown, match="it is not known whether the change was written"):
                await log.append(proposal(1))
            with pytest.raises(StorageFailed, match="nothing was written"):
                await log.append(proposal(1))
            assert log.head == 1
            proxy.come_back()
            with anyio.fail_after(10):
                while log.head == 1:  # noqa: ASYNC110  # found out by the writer itself, though nobody asks
                    await anyio.sleep(0.05)
            await log.append(proposal(2))
            assert [one.position for one in await everything(log)] == [1, 2, 3]


# What is wrong with an address


async def test_what_does_not_pass_is_refused_at_once_and_says_why(postgres, name):
    for statement in (
        f"DROP ROLE IF EXISTS {STRICT}",
        f"CREATE ROLE {STRICT} LOGIN PASSWORD 'right'",
        f"REVOKE CREATE ON DATABASE {name} FROM PUBLIC",
    ):
        postgres.execute(statement)
    try:
        for url, reason in (
            (postgres.url("nowhere"), 'database "nowhere" does not exist'),
            (postgres.url(name, user="nobody"), 'role "nobody" does not exist'),
            (postgres.url(name, user=STRICT, password="wrong"), "password authentication failed"),
            (postgres.url(name, user=STRICT, password="right"), "its tables cannot be made: permission denied"),
        ):
            with anyio.fail_after(5), pytest.raises(StorageFailed) as refused:
                async with opened(url):
                    pass
            assert reason in str(refused.value)
            assert "wrong" not in str(refused.value), "no password is told"
    finally:
        postgres.execute(f"DROP ROLE {STRICT}")


async def test_a_server_that_is_down_is_waited_for_and_then_named(postgres, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "_START_S", 0.2)
    with pytest.raises(StorageFailed, match=r"connection to server on socket .* failed: No such file"):
        async with opened(f"postgresql:///x?host={tmp_path}"):
            pass


def test_a_password_is_in_no_message():
    for url in ("postgresql://u:secret@h/d?node=n", "postgresql://u@h/d?password=secret&sslmode=require"):
        place = Place.of(url)
        assert "secret" not in place.shown
        assert "secret" in place.conninfo
    assert (
        Place.of("postgresql://u:s@h:5/d?sslmode=require&node=n").shown == "postgresql://u@h:5/d?sslmode=require&node=n"
    )


# Schemas


async def test_something_else_and_something_newer_are_left_alone(postgres, name):
    postgres.execute("CREATE TABLE events (x int)", name)
    with pytest.raises(NotALog, match="has no table 'alembic_version'"):
        async with opened(postgres.url(name)):
            pass
    postgres.execute("DROP TABLE events", name)
    async with one_log(postgres.url(name)):
        pass
    postgres.execute("UPDATE alembic_version SET version_num = '9999'", name)
    with pytest.raises(NewerSchema, match=f"has schema 9999, this version knows {REVISIONS[-1]}"):
        async with opened(postgres.url(name)):
            pass
    with pytest.raises(NewerSchema), open_history(postgres.url(name)):
        pass


def test_the_migrations_lead_up_and_down_again(postgres, name):
    config = Config()
    config.set_main_option("script_location", str(migrations()))
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(postgres.url(name)))
    for revision in ("0001", "head", "0001", "head", "base", "head"):
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            down = revision == "base" or connection.dialect.has_table(connection, "cluster_events")
            (command.downgrade if down else command.upgrade)(config, revision)
        if revision == "base":
            assert postgres.execute("SELECT relname FROM pg_class WHERE relname LIKE '%events%'", name) == []
    engine.dispose()


async def test_many_agents_can_start_at_once_in_an_empty_database(postgres, name):
    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(start_and_stop, postgres.url(name), f"n{number}")
    assert postgres.execute("SELECT count(DISTINCT node) FROM events", name) == [(4,)]


async def start_and_stop(url, node):
    async with one_log(url, 1, node):
        pass


# Reading


async def test_a_history_is_the_same_whatever_keeps_it(postgres, name, tmp_path):
    clock = TickingClock
    async with (
        PostgresLog.open(postgres.url(name), clock(), node="n1") as log,
        SqliteLog.open(str(tmp_path / "log"), clock()) as file,
    ):
        for one in (log, file):
            await fill(one, 30, batch=7)
    with open_history(postgres.url(name)) as there, open_history(str(tmp_path / "log")) as here:
        assert there.head == here.head == 30
        assert list(there.entries(3, 28)) == list(here.entries(3, 28))
        for position in (0, 1, 17, 30):
            assert there.ledger(position).dump() == here.ledger(position).dump()
            instant_ns = here.recorded_at_ns(position)
            assert there.position_at(instant_ns) == here.position_at(instant_ns)
        for wanted in (Wanted(object="node n1", last=3), Wanted(actor="nobody"), Wanted(kind="node", after=5, to=9)):
            assert there.find(wanted) == here.find(wanted)


async def test_a_reader_must_say_which_node_where_there_are_several(postgres, name):
    with pytest.raises(NotALog, match="the database is empty"), open_history(postgres.url(name)):
        pass
    for node in ("b", "a"):
        async with one_log(postgres.url(name), 1, node):
            pass
    several = "has the logs of 2 nodes, and none is named: add node=NAME; a, b"
    with pytest.raises(NoSuchNode, match=several), open_history(postgres.url(name)):
        pass
    with pytest.raises(NoSuchNode, match="has no log of node 'c'; there are a, b"):
        verify_file(postgres.url(name, node="c"))
    with open_history(postgres.url(name, node="a")) as history:
        assert history.head == 1


async def test_one_view_has_the_events_of_all_nodes(postgres, name):
    policy = PolicyUpserted(kind="CiliumNetworkPolicy", namespace="shop", name="p", document='{"a":"\0"}')
    async with one_log(postgres.url(name), 1, "n1"), opened(postgres.url(name), "n2") as log:
        await log.append(proposal(0, policy, stream="policy", actor="ann", cause="ticket"))
    found = postgres.execute(
        "SELECT node, position, actor, cause, type, kind, object, summary, data ->> 'name', "
        "extract(epoch FROM time)::bigint FROM cluster_events ORDER BY node",
        name,
    )
    at = TickingClock().now_ns() // 10**9
    shown = "node n1 addresses changed"
    name_of_policy = "policy CiliumNetworkPolicy/shop/p"
    assert found == [
        ("n1", 1, "uid:0(root)", "test", "node.addresses_changed", "node", "node n1", shown, "n1", at),
        ("n2", 1, "ann", "ticket", "policy.upserted", "policy", name_of_policy, f"{name_of_policy} upserted", "p", at),
    ]
