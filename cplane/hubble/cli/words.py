"""What a flow says, in the words of upstream's command: hosts, identities, kind of event, verdict, summary."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cplane.domain.identity import RESERVED_BY_NUMBER, UNKNOWN, NumericIdentity
from cplane.hubble.cli.flags import EVENT_TYPES, TRACE_POINTS
from cplane.hubble.cli.terminal import Colours, escape
from cplane.hubble.texts import drop_reason
from cplane.pb.flow import flow_pb2

_MATCHES: Final = ("none", "L3-Only", "L3-L4", "L4-Only", "all", "L3-Proto", "Proto-Only")
_SOCKET_POINTS: Final = {
    flow_pb2.SOCK_XLATE_POINT_PRE_DIRECTION_FWD: "pre-xlate-fwd",
    flow_pb2.SOCK_XLATE_POINT_POST_DIRECTION_FWD: "post-xlate-fwd",
    flow_pb2.SOCK_XLATE_POINT_PRE_DIRECTION_REV: "pre-xlate-rev",
    flow_pb2.SOCK_XLATE_POINT_POST_DIRECTION_REV: "post-xlate-rev",
}
# what verdicts are called where a policy was asked
_JUDGED: Final = {
    flow_pb2.FORWARDED: "ALLOWED",
    flow_pb2.REDIRECTED: "ALLOWED",
    flow_pb2.DROPPED: "DENIED",
    flow_pb2.ERROR: "DENIED",
    flow_pb2.AUDIT: "AUDITED",
}


@dataclass(frozen=True)
class Words:
    """Words for flows. `names`: of pods, services and DNS in place of addresses."""

    colours: Colours
    names: bool = True
    policies: bool = False

    def ends(self, flow: flow_pb2.Flow, source_port: str, destination_port: str) -> tuple[str, str]:
        """Source and destination, each with its port if that is not empty."""
        if not flow.HasField("IP"):
            hosts = (flow.ethernet.source, flow.ethernet.destination) if flow.HasField("ethernet") else ("", "")
            return self.colours.host(escape(hosts[0])), self.colours.host(escape(hosts[1]))
        source = self._name(flow.source, flow.source_service, flow.source_names) or flow.IP.source
        target = self._name(flow.destination, flow.destination_service, flow.destination_names) or flow.IP.destination
        return self._host(source, source_port), self._host(target, destination_port)

    def _name(self, end: flow_pb2.Endpoint, service: flow_pb2.Service, names: Iterable[str]) -> str:
        if not self.names:
            return ""
        for namespace, name in ((end.namespace, end.pod_name), (service.namespace, service.name)):
            if name:
                return f"{namespace}/{name}" if namespace else name
        return ",".join(names)

    def _host(self, host: str, port: str) -> str:
        shown = escape(host)
        if port:
            shown = f"[{shown}]" if ":" in shown else shown
            shown += f":{self.colours.port(port)}"
        return self.colours.host(shown)

    def identities(self, flow: flow_pb2.Flow) -> tuple[str, str]:
        """Who source and destination are for policies."""
        return self._identity(flow.source.identity), self._identity(flow.destination.identity)

    def _identity(self, number: int) -> str:
        reserved = RESERVED_BY_NUMBER.get(NumericIdentity(number))
        if reserved is not None:
            return self.colours.identity(f"({reserved.label_key})")
        return self.colours.identity("(unknown)" if number == UNKNOWN else f"(ID:{number})")

    def verdict(self, flow: flow_pb2.Flow) -> str:
        """What became of it, and with `policies` by whose will."""
        verdict = flow.verdict
        judged = flow.event_type.type == EVENT_TYPES["policy-verdict"]
        word = _JUDGED.get(verdict) if judged else None
        word = word or _enumerated(flow_pb2.Verdict, verdict)
        if judged and self.policies:
            word += _policies(flow)
        match verdict:
            case flow_pb2.FORWARDED | flow_pb2.REDIRECTED:
                return self.colours.good(word)
            case flow_pb2.DROPPED | flow_pb2.ERROR:
                return self.colours.bad(word)
            case flow_pb2.AUDIT | flow_pb2.TRACED | flow_pb2.TRANSLATED:
                return self.colours.notable(word)
        return word

    def summary(self, flow: flow_pb2.Flow) -> str:
        """What the packet or the request was."""
        traced = flow.ip_trace_id.trace_id
        text = f"IP Trace ID: {traced}; " if traced else ""
        text += escape(flow.Summary)
        if flow.auth_type != flow_pb2.DISABLED:
            word = _enumerated(flow_pb2.AuthType, flow.auth_type)
            failed = flow.auth_type == flow_pb2.TEST_ALWAYS_FAIL
            text += f"; Auth: {self.colours.bad(word) if failed else self.colours.good(word)}"
        return text


def event(flow: flow_pb2.Flow) -> str:
    """The kind of event that a flow is."""
    if flow.HasField("l7"):
        return _request(flow.l7)
    sub_type = flow.event_type.sub_type
    kind = flow.event_type.type
    if kind == EVENT_TYPES["trace"]:
        return TRACE_POINTS[sub_type] if 0 <= sub_type < len(TRACE_POINTS) else str(sub_type)
    if kind == EVENT_TYPES["drop"]:
        return drop_reason(sub_type)
    if kind == EVENT_TYPES["policy-verdict"]:
        number = flow.policy_match_type
        matched = _MATCHES[number] if number < len(_MATCHES) else "unknown"
        return f"policy-verdict:{matched} {_enumerated(flow_pb2.TrafficDirection, flow.traffic_direction)}"
    if kind == EVENT_TYPES["capture"]:
        return _enumerated(flow_pb2.DebugCapturePoint, flow.debug_capture_point)
    if kind == EVENT_TYPES["trace-sock"]:
        point = flow.sock_xlate_point
        return _SOCKET_POINTS.get(point) or _enumerated(flow_pb2.SocketTranslationPoint, point)
    return "UNKNOWN"


def _request(layer: flow_pb2.Layer7) -> str:
    record = layer.WhichOneof("record") or "l7"
    kind = _enumerated(flow_pb2.L7FlowType, layer.type).lower()
    return f"{record}-{kind} {escape(layer.dns.observation_source)}" if record == "dns" else f"{record}-{kind}"


def _policies(flow: flow_pb2.Flow) -> str:
    """` BY name (Kind), …`: who allowed it, or who denied it."""
    allowed = flow.verdict in {flow_pb2.FORWARDED, flow_pb2.REDIRECTED}
    if flow.traffic_direction == flow_pb2.INGRESS:
        found = flow.ingress_allowed_by if allowed else flow.ingress_denied_by
    else:
        found = flow.egress_allowed_by if allowed else flow.egress_denied_by
    named = [f"{escape(one.name)} ({escape(one.kind)})" for one in found if one.name and one.kind]
    return f" BY {', '.join(named)}" if named else ""


def _enumerated(kind: type[int], number: int) -> str:
    """The name of a value, or the number of one that has none here."""
    names: dict[int, str] = {value: name for name, value in kind.items()}  # type: ignore[attr-defined]  # protobuf's
    return names.get(number, str(number))
