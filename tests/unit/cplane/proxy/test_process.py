"""A process that outlives who started it, is found again, and is replaced when it dies."""

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from cplane import __version__
from cplane.proxy import process as process_module
from cplane.proxy.envoy import EnvoyOptions, base_id, binary, bootstrap, program
from cplane.proxy.process import Identity, Process, Program, is_alive, read_identity, started_at, write_identity
from cplane.proxy.programs import build, own

pytestmark = pytest.mark.anyio
SLEEP = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)")


@pytest.fixture
def program_of(tmp_path: Path):
    def make(*command: str) -> Program:
        return Program("sleeper", tmp_path / "run", command or SLEEP)

    yield make
    found = read_identity(tmp_path / "run/sleeper.pid")
    if found is not None and is_alive(found):
        os.kill(found.pid, signal.SIGKILL)


@asynccontextmanager
async def running(process: Process) -> AsyncIterator[Process]:
    async with anyio.create_task_group() as group:
        group.start_soon(process.run)
        await until(lambda: process.pid != 0)
        yield process
        group.cancel_scope.cancel()


async def until(check: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not check():  # noqa: ASYNC110  # a process tells nobody
            await anyio.sleep(0.005)


async def test_it_goes_on_when_nobody_looks_after_it_and_is_found_again(program_of):
    async with running(Process(program_of())) as first:
        pid = first.pid
    assert started_at(pid)
    assert os.getsid(pid) != os.getsid(0)
    async with running(Process(program_of())) as second:
        assert (second.pid, second.starts) == (pid, 0)
        await second.stop()
    assert not started_at(pid)


async def test_one_that_dies_is_replaced(program_of):
    async with running(Process(program_of())) as process:
        pid = process.pid
        os.kill(pid, signal.SIGKILL)
        await until(lambda: process.pid not in {0, pid})
        assert process.starts == 2
        assert is_alive(read_identity(program_of().pid_file))
        await process.stop()


async def test_one_that_was_found_is_replaced_too(program_of):
    async with running(Process(program_of())) as first:
        pid = first.pid
    async with running(Process(program_of())) as second:
        os.kill(pid, signal.SIGKILL)
        await until(lambda: second.pid not in {0, pid})
        await second.stop()


async def test_one_of_another_command_is_replaced(program_of):
    async with running(Process(program_of())) as first:
        pid = first.pid
    async with running(Process(program_of(*SLEEP, "other"))) as second:
        assert second.pid != pid
        assert not started_at(pid)
        await second.stop()


async def test_one_that_takes_over_is_started_beside_the_other(program_of, tmp_path):
    def program_with(word: str) -> Program:
        return Program("sleeper", tmp_path / "run", (*SLEEP, word), epoch="--epoch")

    async with running(Process(program_with("one"))) as first:
        pid = first.pid
    async with running(Process(program_with("two"))) as second:
        assert second.pid != pid
        assert started_at(pid)
        assert read_identity(program_with("two").pid_file).command[-2:] == ("--epoch", "1")
        os.kill(pid, signal.SIGKILL)
    async with running(Process(program_with("two"))) as third:
        assert third.pid == second.pid
        await third.stop()


async def test_one_that_cannot_be_noted_down_is_ended_and_tried_again(program_of, monkeypatch):
    pids = []

    def spawn(*arguments):
        pids.append(original(*arguments))
        return pids[-1]

    original = process_module._spawn
    monkeypatch.setattr(process_module, "_spawn", spawn)
    monkeypatch.setattr(process_module, "BACK_OFF_S", (0.0, 0.01))
    in_its_place = program_of().pid_file.with_suffix(".new")
    in_its_place.mkdir(parents=True)
    process = Process(program_of())
    async with anyio.create_task_group() as group:
        group.start_soon(process.run)
        await until(lambda: len(pids) > 1)
        in_its_place.rmdir()
        await until(lambda: process.pid != 0)
        *others, last = pids
        assert (last, process.starts) == (process.pid, 1)
        await until(lambda: not any(map(started_at, others)))
        await process.stop()


async def test_one_that_nobody_can_wait_for_is_looked_at(program_of, monkeypatch):
    monkeypatch.setattr(process_module, "_BLIND_S", 0.001)
    with monkeypatch.context() as patched:

        def pidfd_open(_pid):
            raise OSError(24, "Too many open files")

        patched.setattr(os, "pidfd_open", pidfd_open)
        async with running(Process(program_of())) as process:
            pid = process.pid
            os.kill(pid, signal.SIGKILL)
            await until(lambda: process.pid not in {0, pid})
            await process.stop()


async def test_a_folder_that_cannot_be_made_is_made_when_it_can(program_of, monkeypatch):
    monkeypatch.setattr(process_module, "BACK_OFF_S", (0.0, 0.01))
    folder = program_of().folder
    folder.write_text("in its place")
    process = Process(program_of())
    async with anyio.create_task_group() as group:
        group.start_soon(process.run)
        await anyio.sleep(0.05)
        folder.unlink()
        await until(lambda: process.pid != 0)
        await process.stop()


async def test_of_two_that_do_not_get_on_with_each_other_the_old_one_goes(program_of, tmp_path):
    def program_with(*command: str) -> Program:
        return Program("sleeper", tmp_path / "run", command, epoch="--epoch")

    async with running(Process(program_with(*SLEEP))) as first:
        pid = first.pid
    process = Process(program_with("/bin/false"))
    async with anyio.create_task_group() as group:
        group.start_soon(process.run)
        await until(lambda: process.starts >= 2)
        assert not started_at(pid)
        group.cancel_scope.cancel()


async def test_one_that_cannot_stay_is_started_less_and_less_often(program_of):
    process = Process(program_of("/bin/false"))
    async with anyio.create_task_group() as group:
        group.start_soon(process.run)
        await until(lambda: process.starts == 4)
        await anyio.sleep(0.05)
        group.cancel_scope.cancel()
    assert process.starts == 4


async def test_what_it_prints_is_in_its_log(program_of):
    one = program_of(sys.executable, "-I", "-S", "-c", "print('hello', flush=True); import time; time.sleep(60)")
    async with running(Process(one)) as process:
        await until(lambda: one.log_file.read_text() == "hello\n")
        await process.stop()
    assert not one.pid_file.exists()


async def test_one_that_does_not_go_is_killed(program_of, monkeypatch):
    monkeypatch.setattr("cplane.proxy.process._END_S", 0.1)
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    one = program_of(sys.executable, "-I", "-S", "-c", code)
    async with running(Process(one)) as process:
        await until(lambda: one.log_file.read_text() == "1\n")
        pid = process.pid
        await process.stop()
        assert not started_at(pid)


def test_a_number_that_another_process_has_by_now_is_not_taken_for_it(tmp_path):
    me = Identity(os.getpid(), started_at(os.getpid()), ("x",))
    assert is_alive(me)
    assert not is_alive(Identity(me.pid, me.started - 1, ("x",)))
    write_identity(tmp_path / "a.pid", me)
    assert read_identity(tmp_path / "a.pid") == me


@pytest.mark.parametrize("content", [b"", b"12", b"{}", b"\xff", b'{"pid": 1, "started": 2, "command": ["\xff"]}'])
def test_a_pid_file_that_says_nothing_names_nobody(tmp_path, content):
    (tmp_path / "a.pid").write_bytes(content)
    assert read_identity(tmp_path / "a.pid") is None


# ---- ours


def test_code_that_was_changed_in_its_place_is_another_build(tmp_path):
    (tmp_path / "proxy").mkdir()
    (tmp_path / "domain/policy").mkdir(parents=True)
    one, other = tmp_path / "proxy/dns.py", tmp_path / "domain/policy/dns.py"
    one.write_text("a")
    other.write_text("b")
    builds = [build.__wrapped__(tmp_path)]
    for path in (one, other):
        path.write_text("c")
        builds.append(build.__wrapped__(tmp_path))
    other.rename(other.with_name("kafka.py"))
    builds.append(build.__wrapped__(tmp_path))
    assert len(set(builds)) == 4
    assert all(one.startswith(f"{__version__}-") for one in builds)


@pytest.mark.parametrize("kind", ["dns", "kafka"])
def test_the_command_of_a_proxy_says_of_which_build_it_is(tmp_path, kind):
    command = own(kind, tmp_path, "--more").command
    assert command[command.index("--build") + 1].startswith(f"{__version__}-")
    assert command[-1] == "--more"


# ---- Envoy


def options(folder: Path, **changed: object) -> EnvoyOptions:
    return EnvoyOptions(**{"folder": folder, "agent": folder / "xds.sock", "node": "n1", **changed})


def test_the_binary_is_there():
    assert os.access(binary(), os.X_OK)


def test_a_command_names_what_its_bootstrap_says(tmp_path):
    first, again, other = (program(options(tmp_path, node=node)) for node in ("n1", "n1", "n2"))
    assert first == again
    assert first.command != other.command
    path = Path(other.command[other.command.index("--config-path") + 1])
    assert json.loads(path.read_text())["node"]["id"] == "n2"
    assert sorted(tmp_path.glob("envoy-*.json")) == [path]


def test_envoy_that_was_upgraded_in_its_place_has_another_command(tmp_path, monkeypatch):
    before, path = program(options(tmp_path)), binary()
    monkeypatch.setattr("cplane.proxy.envoy._installed", lambda: (path, "0.0.1"))
    assert program(options(tmp_path)).command != before.command


def test_envoys_of_different_folders_do_not_share_memory(tmp_path):
    assert base_id(tmp_path / "a") != base_id(tmp_path / "b")


def test_everything_comes_from_the_agent(tmp_path):
    made = bootstrap(options(tmp_path))
    assert "listeners" not in made["static_resources"]
    assert made["dynamic_resources"]["ads_config"]["api_type"] == "DELTA_GRPC"
