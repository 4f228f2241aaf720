"""Flows to lines of JSON, many at a time.

What flows of one kind share is written once and kept, with gaps for what differs: time, uuid, ports, position, request.
A line is what protojson makes of an `observer.ExportEvent`, with the names of the proto file.
"""

from operator import itemgetter
from typing import Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from google.protobuf.timestamp_pb2 import Timestamp

from cplane.hubble.cli.jsonpb import Writer, quoted
from cplane.hubble.cli.times import PROTOJSON, TimeText
from cplane.hubble.detail import ACCESS
from cplane.hubble.fieldmask import Mask, keep
from cplane.hubble.flow import KEY, PORTS, FlowBuilder, Varying, gather, key_of
from cplane.hubble.ids import TEXT_BYTES
from cplane.hubble.origin import origin_json
from cplane.hubble.ring import Loss, Span
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2
from datapath.notify.records import RecordType

TEMPLATES_MAX: Final = 1 << 12  # kinds of flows remembered; all are forgotten beyond that
_NS: Final = 1_000_000_000
# Gaps are marked by what cannot stand in JSON: a zero byte, and the number of what belongs there.
_TIME, _UUID, _SOURCE_PORT, _DESTINATION_PORT, _ORIGIN, _L7, _SUMMARY = (f"\0{number}" for number in range(7))
_LAYER4: Final = ("TCP", "UDP", "SCTP")
_STAND_IN: Final = Varying(time_ns=1, origin=1, sport=1, dport=1, uuid="u")  # nothing of it is a default

_PORTED: Final = np.zeros(256, np.bool_)
_PORTED[list(PORTS)] = True

Rows = npt.NDArray[np.intp]


class Template(NamedTuple):
    """A line with `%s` for each gap, and which of a row's values go there, in their order."""

    text: str
    gaps: "itemgetter[str]"


class LineEncoder:
    """Encodes flows of one store. `mask` None: all of a flow."""

    def __init__(self, store: FlowStore, mask: Mask | None = None) -> None:
        self._store, self._mask = store, mask
        self._builder, self._writer = FlowBuilder(store), Writer()
        self._time = TimeText(PROTOJSON)
        # a mask that wants a part of what varies cannot be a gap
        self._plain = mask is not None and any(mask.get(name) for name in ("time", "extensions"))
        self._whole_requests = mask is not None and any(mask.get(name) for name in ("l7", "trace_context"))
        self._generation = store.generation
        self._templates: dict[bytes, Template] = {}

    def encode(self, span: Span, rows: Rows) -> bytes:
        """The rows (relative to the span) as lines."""
        if self._plain:
            return "".join(self._whole(span, row) for row in rows.tolist()).encode()
        templates = self._templates_of(gather(span, rows))
        times = span["time_ns"][rows].tolist()
        ports = zip(span["sport"][rows].tolist(), span["dport"][rows].tolist(), strict=True)
        origins = span["origin"][rows].tolist()
        ids = self._store.ids.texts((rows + span.start).astype(np.uint64)).tobytes().decode()
        requests = self._requests(span, rows)
        write, lines = self._time, []
        for index, (template, time_ns, (sport, dport), origin) in enumerate(
            zip(templates, times, ports, origins, strict=True)
        ):
            uuid = ids[index * TEXT_BYTES : (index + 1) * TEXT_BYTES]
            values = (write(time_ns // _NS, time_ns % _NS), uuid, sport, dport, origin, *requests.get(index, ("", "")))
            lines.append(template.text % template.gaps(values))
        for index in np.flatnonzero(self._has_default(span, rows)).tolist():
            lines[index] = self._whole(span, int(rows[index]))
        for index, (layer, _) in requests.items():
            if not layer:
                lines[index] = self._whole(span, int(rows[index]))
        return "".join(lines).encode()

    def _has_default(self, span: Span, rows: Rows) -> npt.NDArray[np.bool_]:
        """Rows with a gap whose value JSON leaves out, or for which there is none: they must be written as a whole."""
        zero = (span["sport"][rows] == 0) | (span["dport"][rows] == 0)
        found: npt.NDArray[np.bool_] = zero & _PORTED[span["protocol"][rows]]
        found |= span["type"][rows] == RecordType.SOCKET  # each has another cookie
        return found

    def _requests(self, span: Span, rows: Rows) -> dict[int, tuple[str, str]]:
        """What belongs into the gaps of rows with a request; empty texts where these must be written as a whole."""
        indices = np.flatnonzero(span["type"][rows] == ACCESS)
        numbers = (span[name][rows][indices].tolist() for name in ("detail", "cookie"))
        found = {}
        for index, detail, cookie in zip(indices.tolist(), *numbers, strict=True):
            flow = flow_pb2.Flow.FromString(self._store.payload(detail, cookie))
            if self._whole_requests or flow.HasField("trace_context") or not (flow.HasField("l7") and flow.Summary):
                found[index] = ("", "")
            else:
                found[index] = (self._writer.message(flow.l7), quoted(flow.Summary))
        return found

    def loss(self, loss: Loss) -> bytes:
        """The line that tells of lost flows."""
        event = observer_pb2.ExportEvent(node_name=self._store.node_name)
        lost = event.lost_events
        lost.source, lost.num_events_lost = loss.source, loss.count  # type: ignore[assignment]
        lost.first.FromNanoseconds(loss.first_ns)
        lost.last.FromNanoseconds(loss.last_ns)
        event.time.FromNanoseconds(loss.last_ns)
        return f"{self._writer.message(event)}\n".encode()

    def _templates_of(self, keys: npt.NDArray[np.void]) -> list[Template]:
        if self._generation != self._store.generation or len(self._templates) > TEMPLATES_MAX:
            self._templates.clear()
            self._generation = self._store.generation
        texts: list[bytes] = keys.view(f"S{KEY.itemsize}").tolist()
        known = self._templates
        for text in set(texts) - known.keys():
            known[text] = self._template(text)
        return [known[text] for text in texts]

    def _template(self, text: bytes) -> Template:
        key = key_of(text)
        flow = self._builder.complete(key, _STAND_IN)
        if key.type == ACCESS:
            flow.ClearField("trace_context")
            flow.l7.SetInParent()
            flow.Summary = "s"
        if self._mask is not None:
            keep(flow, self._mask)
        instead = {
            "time": f'"{_TIME}"',
            "uuid": f'"{_UUID}"',
            "extensions": origin_json(_ORIGIN),
            "l4": self._layer4(flow.l4),
            **({"l7": _L7, "Summary": _SUMMARY} if key.type == ACCESS else {}),
        }
        line = self._line(self._writer.message(flow, instead), f'"{_TIME}"')
        parts = line.replace("%", "%%").split("\0")
        gaps = [int(part[0]) for part in parts[1:]]
        shown = "%s".join((parts[0], *(part[1:] for part in parts[1:])))
        return Template(shown, cast("itemgetter[str]", itemgetter(*gaps) if len(gaps) > 1 else itemgetter(slice(0, 1))))

    def _layer4(self, l4: flow_pb2.Layer4) -> str:
        name = l4.WhichOneof("protocol")
        if name not in _LAYER4:
            return self._writer.message(l4)
        gaps = {"source_port": _SOURCE_PORT, "destination_port": _DESTINATION_PORT}
        return f'{{"{name}":{self._writer.message(getattr(l4, name), gaps)}}}'

    def _whole(self, span: Span, row: int) -> str:
        """A line that is made of the whole flow."""
        flow = self._builder.flow(span, row)
        time_ns = int(span["time_ns"][row])
        if self._mask is not None:
            keep(flow, self._mask)
        stamp = Timestamp()
        stamp.FromNanoseconds(time_ns)
        return self._line(self._writer.message(flow), f'"{self._time(stamp.seconds, stamp.nanos)}"')

    def _line(self, flow: str, time: str) -> str:
        return f'{{"flow":{flow},"node_name":{quoted(self._store.node_name)},"time":{time}}}\n'
