"""What `hubble top` does: count what an observer or a file has, and show it once, or again and again."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import anyio
import anyio.abc
from google.protobuf.message import DecodeError
from grpclib.exceptions import GRPCError, StreamTerminatedError
from rich.console import Console
from rich.live import Live

from cplane.hubble.cli.failure import Failed
from cplane.hubble.cli.graphing import FIELDS as GRAPH_FIELDS
from cplane.hubble.cli.observing import feed, fold, wanted_request
from cplane.hubble.cli.output import write_out
from cplane.hubble.cli.request import POLICY_FIELDS, filters_yaml
from cplane.hubble.cli.screen import render, text_of
from cplane.hubble.cli.session import Session, open_session
from cplane.hubble.cli.settings import Settings
from cplane.hubble.cli.streaming import stream_to
from cplane.hubble.cli.tally import Tally
from cplane.hubble.cli.wanted import Wanted
from cplane.pb.observer import observer_pb2 as pb
from cplane.telemetry.clock import SystemClock
from cplane.transport.client import ClientChannel, Unreachable

FIELDS: Final = (*GRAPH_FIELDS, "event_type", "l7", "traffic_direction", *POLICY_FIELDS)
LAST: Final = 1000  # flows that are counted before those to come, unless it is said otherwise
REDRAW_S: Final = 1.0
_METHOD: Final = "/observer.Observer/GetFlows"
_QUIT: Final = frozenset(b"qQ\x04")
_KEYS: Final = 64  # bytes of a keyboard at a time
# how a stream fails; a task group would wrap these, and who knows their words would not see them
_FAILURES: Final = (GRPCError, StreamTerminatedError, ConnectionError, Unreachable, DecodeError, Failed)


def show_top(settings: Settings, wanted: Wanted, *, once: bool) -> None:
    """The numbers were shown: once, or until q, an interrupt, or the end of the flows. Raises Failed."""
    once = once or bool(wanted.input_file)
    if not once and not sys.stdout.isatty():
        raise Failed("top: standard output is no terminal; use --once")
    if not (wanted.last or wanted.first or wanted.everything or wanted.since or wanted.until or wanted.input_file):
        wanted = replace(wanted, last=LAST)
    request = wanted_request(settings, replace(wanted, follow=not once), FIELDS)
    if wanted.raw_only:
        write_out(filters_yaml(request))
        return
    tally = Tally()
    try:
        if once:
            feed(settings, wanted, request, partial(fold, tally))
            write_out(text_of(tally, wanted.input_file or settings.server))
        else:
            session = open_session(settings, silent=True)  # a warning would be lost on this screen
            session.call(partial(_watch, session, request, tally))
    except DecodeError as error:
        raise Failed(f"the server sent what is no flow: {error}") from None


async def _watch(session: Session, request: pb.GetFlowsRequest, tally: Tally, channel: ClientChannel) -> None:
    """Count what comes, and draw it, until one of the tasks has a reason to end."""
    failures: list[Exception] = []
    console = Console()

    async def count(scope: anyio.CancelScope) -> None:
        try:
            await stream_to(partial(fold, tally), session, _METHOD, request, pb.GetFlowsResponse, channel)
        except _FAILURES as error:
            failures.append(error)
        scope.cancel()

    with Live(console=console, screen=True, auto_refresh=False) as live, _keyboard() as keyboard:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count, tasks.cancel_scope)
            tasks.start_soon(_draw, live, console, tally, session.server)
            if keyboard is not None:
                tasks.start_soon(_listen, keyboard, tasks.cancel_scope)
    if failures:
        raise failures[0]


async def _draw(live: Live, console: Console, tally: Tally, server: str) -> None:
    clock = SystemClock()
    while True:
        tally.mark(clock.monotonic_ns())
        live.update(render(tally, server, console.size.height), refresh=True)  # of now: terminals change their size
        await anyio.sleep(REDRAW_S)


async def _listen(keyboard: int, scope: anyio.CancelScope) -> None:
    """The scope is cancelled when somebody presses q."""
    while True:
        await anyio.wait_readable(keyboard)
        keys = os.read(keyboard, _KEYS)
        if not keys:
            return  # the keyboard is gone; an interrupt remains
        if not _QUIT.isdisjoint(keys):
            scope.cancel()


@contextmanager
def _keyboard() -> Iterator[int | None]:
    """The keyboard, whose keys come one by one and unseen within the block; None where standard input is none."""
    if not sys.stdin.isatty():
        yield None
        return
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)
    try:
        yield number
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
