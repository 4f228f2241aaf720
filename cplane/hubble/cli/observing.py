"""What `hubble observe` does: ask an observer for flows, and show them as they come."""

from functools import partial
from typing import Final

from google.protobuf.message import DecodeError
from grpclib.client import UnaryStreamMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from cplane.hubble.cli.failure import Failed, complain
from cplane.hubble.cli.filters import flow_filters
from cplane.hubble.cli.output import write_out
from cplane.hubble.cli.printer import CompactPrinter, DictPrinter, JsonPrinter, Printer, Style, TablePrinter
from cplane.hubble.cli.request import POLICY_FIELDS, SHOWN_FIELDS, Selection, filters_yaml, flows_request, raw_filters
from cplane.hubble.cli.session import Session, open_session
from cplane.hubble.cli.settings import Settings
from cplane.hubble.cli.terminal import Colours, wants_colours
from cplane.hubble.cli.times import LAYOUTS, NoSuchTime, TimeText
from cplane.hubble.cli.wanted import JSON, TABLE, Wanted
from cplane.hubble.cli.words import Words
from cplane.pb.observer import observer_pb2 as pb
from cplane.telemetry.clock import SystemClock
from cplane.transport.batches import batches
from cplane.transport.client import ClientChannel

_METHOD: Final = "/observer.Observer/GetFlows"
_BARE_JSON: Final = "legacy-json-output"  # in HUBBLE_COMPAT: JSON is the flow alone


def observe_flows(settings: Settings, wanted: Wanted) -> None:
    """The flows are shown. Raises Failed."""
    request = wanted_request(settings, wanted)
    if wanted.raw_only:
        write_out(filters_yaml(request))
        return
    session = open_session(settings, silent=wanted.silent)
    printer = make_printer(settings, wanted)
    session.debug(f"asking for {str(request).replace(chr(10), ' ')}")
    try:
        session.call(partial(_stream, session, request, printer))
    except (NoSuchTime, DecodeError) as error:
        raise Failed(f"the server sent what cannot be shown: {error}") from None
    finally:
        printer.close()


def wanted_request(settings: Settings, wanted: Wanted) -> pb.GetFlowsRequest:
    """What the server is asked. Raises Failed."""
    whitelist, blacklist = flow_filters(wanted.filters)
    mask = [path for given in wanted.field_mask for path in given.split(",") if path]
    if wanted.output in TABLE and wanted.follow:
        raise Failed("table output format is not compatible with follow mode")
    if wanted.output not in JSON:
        if mask:
            raise Failed(f"{wanted.output} output format is not compatible with custom field mask")
        if wanted.default_mask:
            mask = [*SHOWN_FIELDS, *(POLICY_FIELDS if wanted.policy_names else ())]
    selection = Selection(
        last=wanted.last,
        first=wanted.first,
        all=wanted.everything,
        follow=wanted.follow,
        since=wanted.since,
        until=wanted.until,
    )
    selection.check()
    return flows_request(
        selection,
        whitelist=[*whitelist, *raw_filters("allowlist", settings.texts("allowlist", commas=False))],
        blacklist=[*blacklist, *raw_filters("denylist", settings.texts("denylist", commas=False))],
        mask=mask,
        now_ns=SystemClock().now_ns(),
    )


def make_printer(settings: Settings, wanted: Wanted) -> Printer:
    """What shows the flows as the user wants them."""
    coloured = wanted.output not in TABLE and wants_colours(wanted.color, settings.environment)
    words = Words(Colours(wanted=coloured), names=wanted.names and not wanted.numeric, policies=wanted.policy_names)
    style = Style(
        out=write_out,
        err=_ignore if wanted.silent else complain,
        words=words,
        time=TimeText(LAYOUTS[wanted.time_format]),
        node_name=wanted.node_name,
        debug=settings.on("debug"),
    )
    match wanted.output:
        case "dict":
            return DictPrinter(style)
        case "table" | "tab":
            return TablePrinter(style)
        case "json" | "jsonpb":
            compatible = settings.environment.get("HUBBLE_COMPAT", "").replace(",", " ").split()
            return JsonPrinter(style, bare=wanted.output == "json" and _BARE_JSON in compatible)
    return CompactPrinter(style)


def _ignore(_line: str) -> None:
    """Not wanted."""


async def _stream(session: Session, request: pb.GetFlowsRequest, printer: Printer, channel: ClientChannel) -> None:
    """Show what the server sends until it ends."""
    method: UnaryStreamMethod[pb.GetFlowsRequest, pb.GetFlowsResponse] = UnaryStreamMethod(
        channel, _METHOD, pb.GetFlowsRequest, pb.GetFlowsResponse
    )
    try:
        async with method.open() as stream:
            await stream.send_message(request, end=True)
            await stream.recv_initial_metadata()
            session.compare_versions(stream.initial_metadata or {})
            async for batch in batches(stream):
                printer.show(batch)
    except GRPCError as error:
        if error.status is not Status.CANCELLED:  # the server's way to say that this is enough
            raise
