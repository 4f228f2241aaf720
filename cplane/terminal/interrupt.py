"""Ctrl-C ends a command that waits, whatever it waits for, and at its first time.

Python runs the handler of a signal between two of its own steps. A signal that comes after the last of them, when
the loop is about to wait in the kernel, is handled only when something else wakes the loop: a command that follows
what seldom happens would seem not to hear it. So the signal itself wakes the loop, through a socket it waits on.
And what it does there is to cancel a scope of anyio, which goes on cancelling until it was heeded; a cancellation
of asyncio's is done once, and lost where a library swallows it.
"""

import errno
import os
import signal
import stat
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

T = TypeVar("T")

GRACE_S: Final = 1.0  # for the end; then what still blocks, such as a write to a pipe that nobody reads, is broken off


def run_until_interrupted(main: Callable[[], Awaitable[T]], *, until_unread: bool = False) -> T:
    """What `main` returns, run on anyio's asyncio. Raises KeyboardInterrupt, soon after SIGINT and at any point.

    With `until_unread` it ends too, with BrokenPipeError, when standard output is a pipe that nobody reads any more:
    for what only reads, and may wait long for something to say. Where signals are somebody else's business (another
    thread, or SIGINT ignored since before us), it only runs.
    """
    import anyio

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not ours:
        return anyio.run(main)
    alarmed = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        finished = anyio.run(partial(_watched, main, until_unread=until_unread))
    except KeyboardInterrupt:
        abandon_output()
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarmed)
    if not finished:
        raise KeyboardInterrupt
    return finished[0]


async def _watched(main: Callable[[], Awaitable[T]], *, until_unread: bool) -> tuple[T] | tuple[()]:
    """What `main` returns; nothing after an interrupt. Raises BrokenPipeError."""
    import asyncio

    import anyio

    loop = asyncio.get_running_loop()
    heard = unread = False

    def hear(number: int, frame: object) -> None:
        nonlocal heard
        if heard:
            raise KeyboardInterrupt
        heard = True
        signal.setitimer(signal.ITIMER_REAL, GRACE_S)

    def leave(output: int) -> None:
        nonlocal unread
        unread = True
        loop.remove_reader(output)
        scope.cancel()

    with anyio.CancelScope() as scope:
        if until_unread and (pipe := _output_pipe()) is not None:
            loop.add_reader(pipe, leave, pipe)  # whose end there is nothing to read from, but its reader's end is told
        loop.add_signal_handler(signal.SIGINT, scope.cancel)  # which is what makes the signal wake the loop
        signal.signal(signal.SIGINT, hear)  # asyncio's own does nothing, and lets blocking calls go on
        try:
            return (await main(),)
        finally:
            loop.remove_signal_handler(signal.SIGINT)
    if unread:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
    return ()


def _output_pipe() -> int | None:
    """The descriptor of standard output, if it is a pipe."""
    with suppress(OSError, ValueError, AttributeError):  # there is none
        output = sys.stdout.fileno()
        if stat.S_ISFIFO(os.fstat(output).st_mode):
            return output
    return None


def abandon_output() -> None:
    """What is written to standard output goes nowhere: the interpreter writes what is left at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
