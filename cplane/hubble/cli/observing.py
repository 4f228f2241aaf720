"""What `hubble observe` does: ask an observer for flows, and show them as they come."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from google.protobuf.message import DecodeError

from cplane.hubble.cli.failure import Failed, complain
from cplane.hubble.cli.files import show_file
from cplane.hubble.cli.filters import flow_filters
from cplane.hubble.cli.output import write_out
from cplane.hubble.cli.printer import CompactPrinter, DictPrinter, JsonPrinter, Printer, Style, TablePrinter
from cplane.hubble.cli.request import (
    POLICY_FIELDS,
    SHOWN_FIELDS,
    filters_yaml,
    flows_request,
    raw_filters,
    selection_of,
)
from cplane.hubble.cli.session import open_session
from cplane.hubble.cli.settings import Settings
from cplane.hubble.cli.streaming import stream_to
from cplane.hubble.cli.terminal import Colours, wants_colours
from cplane.hubble.cli.times import LAYOUTS, NoSuchTime, TimeText
from cplane.hubble.cli.wanted import JSON, TABLE, Wanted
from cplane.hubble.cli.words import Words
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2 as pb
from cplane.telemetry.clock import SystemClock

_METHOD: Final = "/observer.Observer/GetFlows"
_BARE_JSON: Final = "legacy-json-output"  # in HUBBLE_COMPAT: JSON is the flow alone


def observe_flows(settings: Settings, wanted: Wanted) -> None:
    """The flows are shown. Raises Failed."""
    request = wanted_request(settings, wanted)
    if wanted.raw_only:
        write_out(filters_yaml(request))
        return
    printer = make_printer(settings, wanted)
    try:
        feed(settings, wanted, request, printer.show)
    except (NoSuchTime, DecodeError) as error:
        raise Failed(f"the server sent what cannot be shown: {error}") from None
    finally:
        printer.close()


def feed(settings: Settings, wanted: Wanted, request: pb.GetFlowsRequest, show: Callable[[list[bytes]], None]) -> None:
    """What the request selects was given to `show`, encoded, as it came: from a server or from a file.

    It has ended, or an interrupt came. Raises Failed, and what `show` raises.
    """
    if wanted.input_file:
        show_file(wanted.input_file, request, show, _ignore if wanted.silent else complain)
        return
    session = open_session(settings, silent=wanted.silent)
    session.debug(f"asking for {str(request).replace(chr(10), ' ')}")
    session.call(partial(stream_to, show, session, _METHOD, request, pb.GetFlowsResponse))


class Folding(Protocol):
    """What many flows are folded into."""

    def add(self, flow: flow_pb2.Flow) -> None:
        """A flow more."""
        ...

    def add_lost(self, lost: flow_pb2.LostEvent) -> None:
        """Flows that nobody saw."""
        ...


def fold(into: Folding, batch: list[bytes]) -> None:
    """Encoded answers are folded in. Raises DecodeError."""
    for data in batch:
        response = pb.GetFlowsResponse.FromString(data)
        if response.HasField("flow"):
            into.add(response.flow)
        elif response.HasField("lost_events"):
            into.add_lost(response.lost_events)


def wanted_request(settings: Settings, wanted: Wanted, mask: Sequence[str] | None = None) -> pb.GetFlowsRequest:
    """What is asked for; `mask` None: the fields that the format shows. Raises Failed."""
    if mask is None:
        mask = _mask(wanted)
    whitelist, blacklist = flow_filters(wanted.filters)
    return flows_request(
        selection_of(wanted),
        whitelist=[*whitelist, *raw_filters("allowlist", settings.texts("allowlist", commas=False))],
        blacklist=[*blacklist, *raw_filters("denylist", settings.texts("denylist", commas=False))],
        mask=mask,
        now_ns=SystemClock().now_ns(),
        origin=wanted.output in JSON and not mask,
    )


def _mask(wanted: Wanted) -> list[str]:
    """The fields that a format shows; none stands for all. Raises Failed."""
    mask = [path for given in wanted.field_mask for path in given.split(",") if path]
    if wanted.output in TABLE and wanted.follow:
        raise Failed("table output format is not compatible with follow mode")
    if wanted.output in JSON:
        return mask
    if mask:
        raise Failed(f"{wanted.output} output format is not compatible with custom field mask")
    if not wanted.default_mask or wanted.input_file:  # it saves a server work, not us
        return []
    return [*SHOWN_FIELDS, *(POLICY_FIELDS if wanted.policy_names else ())]


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
