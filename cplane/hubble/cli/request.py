"""What `hubble observe` was asked for, as a GetFlowsRequest."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.field_mask_pb2 import FieldMask

from cplane.hubble.cli.failure import Failed
from cplane.hubble.cli.jsonpb import Writer
from cplane.hubble.cli.times import parse_instant
from cplane.hubble.cli.wanted import Wanted
from cplane.hubble.origin import TYPE_URL
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2 as pb

SHOWN_BY_DEFAULT: Final = 20
EVERYTHING: Final = (1 << 64) - 1
# what compact, dict and table show; nothing else is asked for
SHOWN_FIELDS: Final = (
    *("time", "verdict", "ethernet", "IP", "l4", "Type", "node_name", "is_reply", "Summary", "l7", "event_type"),
    *("source.identity", "source.namespace", "source.pod_name", "source_names", "source_service"),
    *("destination.identity", "destination.namespace", "destination.pod_name", "destination_names"),
    *("destination_service", "traffic_direction", "policy_match_type", "debug_capture_point", "sock_xlate_point"),
    *("auth_type", "ip_trace_id"),
)
_FLOW: Final[Descriptor] = flow_pb2.Flow.DESCRIPTOR  # type: ignore[assignment]  # the C twin of that class
POLICY_FIELDS: Final = ("egress_allowed_by", "ingress_allowed_by", "egress_denied_by", "ingress_denied_by")

Request: TypeAlias = pb.GetFlowsRequest | pb.GetAgentEventsRequest | pb.GetDebugEventsRequest


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which flows. Numbers are 0 and times empty where they were not given."""

    last: int = 0
    first: int = 0
    all: bool = False
    follow: bool = False
    since: str = ""
    until: str = ""

    def check(self) -> None:
        """Raises Failed for what excludes each other."""
        for one, other, wrong in (
            ("first", "last", self.first and self.last),
            ("first", "all", self.first and self.all),
            ("first", "follow", self.first and self.follow),
            ("last", "all", self.last and self.all),
        ):
            if wrong:
                raise Failed(f"cannot set both --{one} and --{other}")


def selection_of(wanted: Wanted) -> Selection:
    """What the options select."""
    named = wanted.last or wanted.first or wanted.everything
    return Selection(
        last=wanted.last,
        first=wanted.first,
        all=wanted.everything or bool(wanted.input_file and not named),  # of a file, all that there are
        follow=wanted.follow,
        since=wanted.since,
        until=wanted.until,
    )


def flows_request(
    selection: Selection,
    *,
    whitelist: Sequence[flow_pb2.FlowFilter],
    blacklist: Sequence[flow_pb2.FlowFilter],
    mask: Sequence[str],
    now_ns: int,
    origin: bool = False,
) -> pb.GetFlowsRequest:
    """The request; `origin`: our agents tell log positions. Times relative to now become absolute. Raises Failed."""
    request = pb.GetFlowsRequest(whitelist=whitelist, blacklist=blacklist)
    select(request, selection, now_ns)
    for path in mask:
        if not FieldMask(paths=[path]).IsValidForDescriptor(_FLOW):
            raise Failed(f'failed to construct field mask: invalid path "{path}" for message "flow.Flow"')
    if mask:
        request.field_mask.paths.extend(mask)
    if origin:
        request.extensions.type_url = TYPE_URL
    return request


def select(request: Request, selection: Selection, now_ns: int) -> None:
    """The request asks for the selection. Raises Failed."""
    selection.check()
    request.follow, request.first = selection.follow, selection.first > 0
    if selection.since:
        request.since.FromNanoseconds(_instant("since", selection.since, now_ns))
    if selection.until and not selection.follow:
        request.until.FromNanoseconds(_instant("until", selection.until, now_ns))
    request.number = selection.first or selection.last
    if not (selection.since or request.HasField("until") or request.number):
        if selection.all:
            request.number = EVERYTHING
        elif not selection.follow:
            request.number = SHOWN_BY_DEFAULT


def _instant(name: str, text: str, now_ns: int) -> int:
    try:
        return parse_instant(text, now_ns)
    except ValueError as error:
        raise Failed(f"failed to parse the {name} time: {error}") from None


def raw_filters(name: str, texts: Sequence[str]) -> list[flow_pb2.FlowFilter]:
    """The filters of --allowlist or --denylist: each text is one or more objects, one after the other."""
    decoder = json.JSONDecoder()
    found = []
    for text in texts:
        at = 0
        try:
            while text[at:].strip():
                at += len(text[at:]) - len(text[at:].lstrip())
                content, at = decoder.raw_decode(text, at)
                found.append(json_format.ParseDict(content, flow_pb2.FlowFilter()))
        except (ValueError, TypeError, AttributeError, json_format.ParseError) as error:
            raise Failed(f"invalid --{name} flag: failed to decode '{text}': {error}") from None
    return found


def filters_yaml(request: pb.GetFlowsRequest) -> str:
    """The filters as a configuration file takes them."""
    writer = Writer()
    text = ""
    for name, filters in (("allowlist", request.whitelist), ("denylist", request.blacklist)):
        if filters:
            quoted = (writer.message(one).replace("'", "''") for one in filters)
            text += f"{name}:\n" + "".join(f"    - '{one}'\n" for one in quoted)
    return text or "{}\n"
