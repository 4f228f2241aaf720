"""Numbers of flows: counted, bounded, and shown once or for as long as somebody looks."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from google.protobuf.json_format import ParseDict
from rich.console import Console

from cplane import __version__
from cplane.hubble.cli import tally as tallies
from cplane.hubble.cli.screen import render, text_of
from cplane.hubble.cli.tally import NO_POLICY, Denial, Frequent, Tally
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from tests.support.flows import START_NS, World, records, store_of
from tests.support.observing import observed
from tests.support.tree import ROOT

PATIENCE_S = 60.0
SECOND = 10**9
POD = {"namespace": "shop", "pod_name": "web"}


def flow(**fields: Any) -> flow_pb2.Flow:
    shown = {
        "source": POD,
        "destination": {"identity": 2},
        "verdict": "FORWARDED",
        "l4": {"TCP": {"destination_port": 443}},
    }
    return ParseDict({**shown, **fields}, flow_pb2.Flow())


DROP = {"verdict": "DROPPED", "event_type": {"type": 1, "sub_type": 133}}
DENIAL = {"verdict": "DROPPED", "event_type": {"type": 5}, "traffic_direction": "EGRESS"}


def counted(*flows: flow_pb2.Flow) -> Tally:
    tally = Tally()
    for one in flows:
        tally.add(one)
    return tally


def test_both_directions_are_one_talk():
    answer = flow(source={"identity": 2}, destination=POD, is_reply=True, l4={"TCP": {"source_port": 443}})
    (((talk, count),)) = counted(flow(), answer).talks.top(9)
    assert (str(talk.client), str(talk.server), str(talk.port), count) == ("shop/web", "world", "TCP/443", 2)


def test_a_denied_packet_counts_once_by_reason_and_once_by_policy():
    policies = [{"namespace": "shop", "name": "a"}, {"name": "everywhere"}]
    tally = counted(flow(**DROP), flow(**DENIAL, egress_denied_by=policies), flow(**DENIAL), flow(verdict="AUDIT"))
    assert tally.reasons.top(9) == [("Policy denied", 1)]
    assert tally.denials.top(9) == [
        (Denial(NO_POLICY, "egress"), 1),
        (Denial("everywhere", "egress"), 1),
        (Denial("shop/a", "egress"), 1),
    ]
    assert [count for _, count in tally.dropped.top(9)] == [1]
    ingress = {**DENIAL, "traffic_direction": "INGRESS"}
    assert counted(flow(**ingress, ingress_denied_by=policies[:1])).denials.top(9) == [(Denial("shop/a", "ingress"), 1)]


def test_a_denied_request_has_a_reason_too():
    denied = flow(verdict="DROPPED", event_type={"type": 129}, l7={"type": "REQUEST", "http": {"method": "GET"}})
    assert counted(denied, flow(verdict="ERROR")).reasons.top(9) == [("http request denied", 1), ("unknown", 1)]


def test_memory_is_bounded_and_the_frequent_stay(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tallies, "KEYS_MAX", 100)
    frequent: Frequent[str] = Frequent()
    for number in range(10_000):
        frequent.add("often" if number % 3 == 0 else str(number))
    assert len(frequent) <= 100
    assert frequent.top(1) == [("often", 3334)]
    assert frequent.forgotten + sum(count for _, count in frequent.top(1000)) == 10_000


def test_the_rate_is_that_of_the_last_marks():
    tally = counted(flow(time="2024-07-24T10:02:11Z"), flow(time="2024-07-24T10:02:15Z"))
    assert tally.rate == 0.5
    for second in range(30):
        tally.mark(second * SECOND)
        for _ in range(second):
            tally.add(flow())
    assert tally.rate == sum(range(20, 29)) / 9
    assert Tally().rate == 0


def test_nothing_in_a_name_is_markup_or_an_order():
    tally = counted(flow(source={"namespace": "[red]", "pod_name": "\x1b[31mx[/]\n"}, **DROP))
    text = text_of(tally, "[bold]x")
    assert "[red]/^[[31mx[/]\\n" in text
    assert text.splitlines()[0].endswith("  [bold]x")
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(("width", "height"), [(120, 50), (80, 24), (40, 20)])
def test_it_fits_the_screen(width: int, height: int):
    names = [f"a-rather-long-name-of-a-pod-{number}" for number in range(100)]
    flows = [
        flow(source={"namespace": "shop", "pod_name": name}, **change) for name in names for change in (DROP, DENIAL)
    ]
    console = Console(width=width, height=height, color_system=None)
    with console.capture() as captured:
        console.print(render(counted(*flows), "unix:///run/x.sock", height))
    lines = captured.get().splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


@pytest.fixture
def anyio_backend() -> str:
    """grpclib is written for asyncio."""
    return "asyncio"


@pytest.fixture
def store() -> FlowStore:
    return store_of(records({}, {"dport": 81}))


@pytest.fixture
async def path(store: FlowStore, tmp_path: Path) -> AsyncIterator[Path]:
    """A socket with an observer behind it."""
    async with observed(store, tmp_path / "hubble.sock", version=__version__):
        yield tmp_path / "hubble.sock"


class Looking:
    """The command on a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self.process, self.terminal = process, terminal
        self._seen = b""

    async def until(self, pattern: str) -> None:
        """Something was drawn that fits."""
        with anyio.fail_after(PATIENCE_S):
            while not re.search(pattern, self._seen.decode(errors="replace"), re.DOTALL):
                await anyio.wait_readable(self.terminal)
                self._seen += os.read(self.terminal, 1 << 16)
        self._seen = b""

    def press(self, keys: bytes) -> None:
        os.write(self.terminal, keys)

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    async def end(self) -> int:
        """Its exit code."""
        with anyio.fail_after(PATIENCE_S):
            while self.process.poll() is None:
                with anyio.move_on_after(0.05):
                    await anyio.wait_readable(self.terminal)
                    os.read(self.terminal, 1 << 16)
        return self.process.returncode


@contextmanager
def looking(path: Path, *words: str) -> Iterator[Looking]:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cplane.hubble.cli.main", "top", "--server", f"unix://{path}", *words]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    try:
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        with subprocess.Popen(
            command, env=environment, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, start_new_session=True
        ) as process:
            try:
                yield Looking(process, ours)
            finally:
                process.kill()
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize("end", [lambda one: one.press(b"q"), lambda one: one.process.send_signal(signal.SIGINT)])
async def test_it_goes_on_until_somebody_ends_it(store: FlowStore, path: Path, end: Callable[[Looking], None]):
    with looking(path) as one:
        before = termios.tcgetattr(one.terminal)
        await one.until(r"2 flows .*TCP/80")
        Parser(store, World()).ingest(records({"dport": 8001}), START_NS + SECOND)
        store.changed.notify()
        await one.until(r"3 flows .*TCP/8001")
        one.press(b"x")
        one.resize(30, 60)
        await one.until("TOP TALKERS")
        end(one)
        assert await one.end() == 0
        assert termios.tcgetattr(one.terminal) == before
        assert one.process.stderr is not None
        assert one.process.stderr.read() == b""


@pytest.mark.anyio
@pytest.mark.slow
async def test_a_server_that_goes_is_told(store: FlowStore, tmp_path: Path):
    path = tmp_path / "hubble.sock"
    async with anyio.create_task_group() as group:
        gone = anyio.Event()

        async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            async with observed(store, path):
                task_status.started()
                await gone.wait()

        await group.start(serve)
        with looking(path) as one:
            await one.until("TOP TALKERS")
            gone.set()
            assert await one.end() == 1
            assert one.process.stderr is not None
            assert one.process.stderr.read().startswith(b"rpc error: code = Unavailable desc = ")


@pytest.mark.anyio
@pytest.mark.slow
async def test_once_is_for_pipes_which_need_it(path: Path):
    command = [sys.executable, "-m", "cplane.hubble.cli.main", "top", "--server", f"unix://{path}"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}

    async def run(*words: str) -> tuple[int, str, str]:
        done = await anyio.run_process([*command, *words], env=environment, check=False)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    code, out, err = await run("--once")
    assert (code, err) == (0, "")
    first, *rest = out.splitlines()
    assert f"hubble top  2.0 flows/s  2 flows  0 lost  unix://{path}".startswith(first.removesuffix("…"))
    assert "0 lost" in first
    assert rest[:4] == [
        "FORWARDED 2",
        "",
        "TOP TALKERS",
        "CLIENT     SERVER         PORT     FLOWS",
    ]
    assert await run() == (1, "", "top: standard output is no terminal; use --once\n")
    assert (await run("--print-raw-filters", "--once", "--pod", "a"))[1].startswith("allowlist:\n")
