"""What an agent did and what its datapath had to say, in the words of upstream's command."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from cplane.hubble.cli.jsonpb import Writer
from cplane.hubble.cli.printer import SEPARATOR, columns
from cplane.hubble.cli.terminal import escape
from cplane.hubble.cli.times import TimeText
from cplane.hubble.cli.wanted import AGENT_TYPES
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.wrappers_pb2 import Int32Value, UInt32Value

Response: TypeAlias = pb.GetAgentEventsResponse | pb.GetDebugEventsResponse
Write = Callable[[str], None]

UNKNOWN: Final = "UNKNOWN"
_NUMBERS: Final[Mapping[str, int]] = {
    "unspecified": flow_pb2.AGENT_EVENT_UNKNOWN,
    "message": flow_pb2.AGENT_EVENT_UNKNOWN,  # of no type that has a number of its own
    "agent-started": flow_pb2.AGENT_STARTED,
    **{
        name: flow_pb2.AgentEventType.Value(name.upper().replace("-", "_"))
        for name in AGENT_TYPES
        if name not in {"unspecified", "message", "agent-started"}
    },
}
_SERVICE_WORDS: Final = {
    "traffic_policy": "traffic policy",  # of agents that tell no more
    "ext_traffic_policy": "external traffic policy",
    "int_traffic_policy": "internal traffic policy",
}


def agent_types(given: Iterable[str]) -> frozenset[int] | None:
    """The types that `TYPE` or `agent:TYPE` mean; None: all of them. Raises ValueError."""
    found: set[int] = set()
    for text in given:
        if text == "agent":
            return None
        number = _NUMBERS.get(text.removeprefix("agent:"))
        if number is None:
            raise ValueError(f"unknown type of agent event {text!r}, expected one of {', '.join(AGENT_TYPES)}")
        found.add(number)
    return frozenset(found) or None


def agent_details(event: flow_pb2.AgentEvent, time: TimeText) -> str:
    """What happened, for one line."""
    match event.WhichOneof("notification"):
        case "unknown":
            unknown = event.unknown
            return f"type: {escape(unknown.type)}, notification: {escape(unknown.notification)}"
        case "agent_start":
            return f"start time: {_stamp(time, event.agent_start.time)}"
        case "policy_update":
            policy = event.policy_update
            return f"labels: {_list(policy.labels)}, revision: {policy.revision}, count: {policy.rule_count}"
        case "endpoint_regenerate":
            done = event.endpoint_regenerate
            return f"id: {done.id}, labels: {_list(done.labels)}{_part('error', done.error)}"
        case "endpoint_update":
            changed = event.endpoint_update
            return f"id: {changed.id}{_part('namespace', changed.namespace)}{_part('pod name', changed.pod_name)}"
        case "ipcache_update":
            return _ipcache(event.ipcache_update)
        case "service_upsert":
            return _service(event.service_upsert)
        case "service_delete":
            return f"id: {event.service_delete.id}"
    return UNKNOWN


def _ipcache(entry: flow_pb2.IPCacheNotification) -> str:
    text = f"cidr: {escape(entry.cidr)}, identity: {entry.identity}"
    if entry.HasField("old_identity"):
        text += f", old identity: {entry.old_identity.value}"
    text += _part("host ip", entry.host_ip) + _part("old host ip", entry.old_host_ip)
    return f"{text}, encrypt key: {entry.encrypt_key}"


def _service(service: flow_pb2.ServiceUpsertNotification) -> str:
    text = f"id: {service.id}"
    if service.HasField("frontend_address"):
        text += f", frontend: {_address(service.frontend_address)}"
    if service.backend_addresses:
        text += f", backends: [{','.join(map(_address, service.backend_addresses))}]"
    for name in ("type", "traffic_policy", "ext_traffic_policy", "int_traffic_policy", "namespace", "name"):
        text += _part(_SERVICE_WORDS.get(name, name), getattr(service, name))
    return text


def _address(one: flow_pb2.ServiceUpsertNotificationAddr) -> str:
    address = escape(one.ip)
    return f"[{address}]:{one.port}" if ":" in address else f"{address}:{one.port}"


def _part(name: str, text: str) -> str:
    return f", {name}: {escape(text)}" if text else ""


def _list(texts: Iterable[str]) -> str:
    return f"[{','.join(map(escape, texts))}]"


def _stamp(time: TimeText, stamp: Timestamp) -> str:
    return time(stamp.seconds, stamp.nanos)


def endpoint(end: flow_pb2.Endpoint) -> str:
    """An endpoint of a debug event: its pod, its only reserved label, or its number alone."""
    number = f"ID: {end.ID}"
    if end.namespace and end.pod_name:
        return f"{escape(end.namespace)}/{escape(end.pod_name)} ({number})"
    if len(end.labels) == 1 and end.labels[0].startswith("reserved:"):
        return f"{escape(end.labels[0])} ({number})"
    return number


def hexadecimal(number: "UInt32Value") -> str:
    """`0x1f`."""
    return f"0x{number.value:x}"


def cpu(number: "Int32Value") -> str:
    """The number of a CPU."""
    return f"{number.value:02d}"


def agent_type(event: flow_pb2.AgentEvent) -> str:
    """The name of a type, or the number of one that has none here."""
    return _named(flow_pb2.AgentEventType.items(), event.type)


def debug_type(event: flow_pb2.DebugEvent) -> str:
    """As `agent_type`."""
    return _named(flow_pb2.DebugEventType.items(), event.type)


def _named(items: Iterable[tuple[str, int]], number: int) -> str:
    return next((name for name, value in items if value == number), str(number))


@dataclass(frozen=True, kw_only=True)
class Look:
    """How events are shown: `out` takes whole lines, `output` is what `-o` takes."""

    out: Write
    time: TimeText
    output: str
    node_name: bool = False


class HappeningsPrinter:
    """Shows agent events or debug events; of the former only those of `types` (None: all)."""

    def __init__(self, look: Look, response: type[Response], types: frozenset[int] | None = None) -> None:
        self._look, self._types = look, types
        self.response = response
        self._writer = Writer()
        self._rows: list[list[str]] = []
        self._started = False

    def show(self, responses: Iterable[bytes]) -> None:
        """Write these encoded responses, all at once. Raises DecodeError."""
        text = "".join(self._text(self.response.FromString(data)) for data in responses)
        if text:
            self._look.out(text)

    def close(self) -> None:
        """Write the table, where it is one and has rows."""
        if self._rows:
            self._look.out(columns(self._rows))

    def _text(self, response: Response) -> str:
        if isinstance(response, pb.GetAgentEventsResponse):
            event = response.agent_event
            if self._types is not None and event.type not in self._types:
                return ""
        if self._look.output in {"json", "jsonpb"}:
            return f"{self._writer.message(response)}\n"
        cells = self._cells(response)
        match self._look.output:
            case "dict":
                separator = SEPARATOR if self._started else ""
                self._started = True
                return separator + "".join(f"{name:>11}: {cell}\n" for name, cell in cells.items())
            case "table" | "tab":
                self._rows += [list(cells.values())] if self._rows else [list(cells), list(cells.values())]
                return ""
        return self._line(response, cells)

    def _cells(self, response: Response) -> dict[str, str]:
        time = _stamp(self._look.time, response.time) if response.HasField("time") else "N/A"
        cells = {"TIMESTAMP": time}
        if self._look.node_name:
            cells["NODE"] = escape(response.node_name)
        if isinstance(response, pb.GetAgentEventsResponse):
            event = response.agent_event
            return cells | {"TYPE": agent_type(event), "DETAILS": agent_details(event, self._look.time)}
        debug = response.debug_event
        source = endpoint(debug.source) if debug.HasField("source") else "N/A"
        mark = hexadecimal(debug.hash) if debug.HasField("hash") else "N/A"
        core = cpu(debug.cpu) if debug.HasField("cpu") else "N/A"
        kind, message = debug_type(debug), escape(debug.message)
        if self._look.output in {"table", "tab"}:
            return cells | {"FROM": source, "TYPE": kind, "CPU/MARK": f"{core} {mark}", "MESSAGE": message}
        return cells | {"TYPE": kind, "FROM": source, "MARK": mark, "CPU": core, "MESSAGE": message}

    def _line(self, response: Response, cells: Mapping[str, str]) -> str:
        node = f" [{cells['NODE']}]" if self._look.node_name else ""
        if isinstance(response, pb.GetAgentEventsResponse):
            return f"{cells['TIMESTAMP']}{node}: {cells['TYPE']} ({cells['DETAILS']})\n"
        what = f"{cells['FROM']} {cells['TYPE']} MARK: {cells['MARK']} CPU: {cells['CPU']} ({cells['MESSAGE']})"
        return f"{cells['TIMESTAMP']}{node}: {what}\n"
