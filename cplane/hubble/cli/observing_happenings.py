"""What `hubble observe agent-events` and `hubble observe debug-events` do."""

from functools import partial
from typing import Final

from google.protobuf.message import DecodeError

from cplane.hubble.cli.failure import Failed
from cplane.hubble.cli.happenings import HappeningsPrinter, Look, agent_types
from cplane.hubble.cli.output import write_out
from cplane.hubble.cli.request import select, selection_of
from cplane.hubble.cli.session import open_session
from cplane.hubble.cli.settings import Settings
from cplane.hubble.cli.streaming import stream_to
from cplane.hubble.cli.times import LAYOUTS, NoSuchTime, TimeText
from cplane.hubble.cli.wanted import TABLE, Wanted
from cplane.pb.observer import observer_pb2 as pb
from cplane.telemetry.clock import SystemClock

_AGENT: Final = "GetAgentEvents"
_DEBUG: Final = "GetDebugEvents"


def observe_agent_events(settings: Settings, wanted: Wanted) -> None:
    """The agent events that were asked for are shown. Raises Failed."""
    try:
        types = agent_types(wanted.types)
    except ValueError as error:
        raise Failed(str(error)) from None
    printer = HappeningsPrinter(_look(wanted), pb.GetAgentEventsResponse, types)
    _observe(settings, wanted, _AGENT, pb.GetAgentEventsRequest(), printer)


def observe_debug_events(settings: Settings, wanted: Wanted) -> None:
    """The debug events that were asked for are shown. Raises Failed."""
    printer = HappeningsPrinter(_look(wanted), pb.GetDebugEventsResponse)
    _observe(settings, wanted, _DEBUG, pb.GetDebugEventsRequest(), printer)


def _look(wanted: Wanted) -> Look:
    return Look(
        out=write_out, time=TimeText(LAYOUTS[wanted.time_format]), output=wanted.output, node_name=wanted.node_name
    )


def _observe(
    settings: Settings,
    wanted: Wanted,
    name: str,
    request: pb.GetAgentEventsRequest | pb.GetDebugEventsRequest,
    printer: HappeningsPrinter,
) -> None:
    if wanted.output in TABLE and wanted.follow:
        raise Failed("table output format is not compatible with follow mode")
    select(request, selection_of(wanted), SystemClock().now_ns())
    session = open_session(settings, silent=wanted.silent)
    session.debug(f"asking for {str(request).replace(chr(10), ' ')}")
    method = f"/observer.Observer/{name}"
    try:
        session.call(partial(stream_to, printer.show, session, method, request, printer.response))
    except (NoSuchTime, DecodeError) as error:
        raise Failed(f"the server sent what cannot be shown: {error}") from None
    finally:
        printer.close()
