"""Commands that wait, interrupted at the worst moments."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from cplane.terminal.interrupt import run_until_interrupted
from tests.support.tree import ROOT

PATIENCE_S = 60.0
pytestmark = pytest.mark.slow

WAITS = "while 'ep' not in Path(f'/proc/self/task/{os.getpid()}/wchan').read_text(): time.sleep(0.01)"
START = f"""
import os, signal, sys, threading, time
from functools import partial
from pathlib import Path
import anyio
import anyio.lowlevel
from cplane.terminal.interrupt import run_until_interrupted
def interrupt():
    {WAITS}
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
async def wait():
    threading.Thread(target=interrupt).start()
    await anyio.sleep_forever()
async def deaf():
    try:
        await wait()
    except BaseException:
        await anyio.sleep_forever()
async def write():
    print("ready", file=sys.stderr, flush=True)
    while True:
        print("x" * 100_000, flush=True)
def ends(main):
    try:
        run_until_interrupted(main)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
"""


def told(main: str) -> tuple[int, str]:
    """Exit code and standard error of a process that ends when it interrupts itself."""
    done = subprocess.run(
        [sys.executable, "-c", f"{START}\nends({main})"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    return done.returncode, done.stderr


def test_a_signal_that_does_not_interrupt_the_wait_itself_is_heard():
    # taken by another thread it leaves the loop in the kernel, as one does that comes just before the wait
    assert told("wait") == (0, "interrupted\n")


def test_a_cancellation_that_is_swallowed_is_repeated():
    assert told("deaf") == (0, "interrupted\n")


def test_a_write_that_blocks_is_broken_off():
    command = [sys.executable, "-c", f"{START}\nends(write)"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == b"ready\n"
            while "pipe" not in Path(f"/proc/{process.pid}/wchan").read_text():
                os.sched_yield()
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 0
            assert process.stderr.read() == b"interrupted\n"
        finally:
            process.kill()


def test_without_an_interrupt_the_result_comes_back_and_signals_are_as_before():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM)

    async def main() -> int:
        await anyio.lowlevel.checkpoint()
        return 7

    assert run_until_interrupted(main) == 7
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM)) == before


def test_a_failure_comes_out_as_it_is():
    async def main() -> None:
        raise LookupError("x")

    with pytest.raises(LookupError, match="x"):
        run_until_interrupted(main)
