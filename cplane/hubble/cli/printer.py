"""Responses as lines, blocks, a table or JSON.

A printer takes batches and writes each of them at once, so that flows come out as fast as they are rendered and as
soon as they are there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from cplane.hubble.cli import events
from cplane.hubble.cli.jsonpb import Writer
from cplane.hubble.cli.kinds import ANSWER_TIME, DESTINATION_PORT, PORTED, SOURCE_PORT, TIME, UUID, UUID_CUT, Kinds
from cplane.hubble.cli.terminal import escape
from cplane.hubble.cli.times import PROTOJSON, TimeText
from cplane.hubble.cli.words import Words, event
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2 as pb

Write = Callable[[str], None]

SEPARATOR: Final = "------------\n"


@dataclass(frozen=True, kw_only=True)
class Style:
    """How flows are shown. `out` and `err` take whole lines; `debug`: every change of a node's state too."""

    out: Write
    err: Write
    words: Words
    time: TimeText
    node_name: bool = False
    debug: bool = False


class Printer(ABC):
    """Shows responses as they come."""

    def __init__(self, style: Style, time: TimeText) -> None:
        self._style = style
        self._kinds = Kinds(self._flow, time)

    def show(self, responses: Iterable[bytes]) -> None:
        """Write these encoded responses, all at once."""
        text = self._kinds.text
        lines = []
        for data in responses:
            line = text(data)
            lines.append(self._other(data) if line is None else line)
        self._write(lines)

    def _other(self, data: bytes) -> str:
        """The text of a response without a flow."""
        response = pb.GetFlowsResponse.FromString(data)
        if response.HasField("lost_events"):
            return self._lost(response)
        if response.HasField("node_status") and (self._style.debug or events.is_news(response.node_status)):
            self._style.err(self._news(response))
        return ""

    def close(self) -> None:  # noqa: B027  # most hold nothing back
        """Write what was held back."""

    def _write(self, lines: list[str]) -> None:
        text = "".join(lines)
        if text:
            self._style.out(text)

    def _news(self, response: pb.GetFlowsResponse) -> str:
        return events.node_line(self._style.time, response)

    @abstractmethod
    def _flow(self, response: pb.GetFlowsResponse) -> str:
        """A flow with holes, as `kinds` wants it."""

    @abstractmethod
    def _lost(self, response: pb.GetFlowsResponse) -> str:
        """A message about lost events."""


def _ends(words: Words, flow: flow_pb2.Flow) -> tuple[str, str]:
    """Source and destination, with holes for ports."""
    protocol = flow.l4.WhichOneof("protocol")
    if protocol not in PORTED:
        return words.ends(flow, "", "")
    layer = getattr(flow.l4, protocol)
    return words.ends(
        flow, SOURCE_PORT if layer.source_port else "", DESTINATION_PORT if layer.destination_port else ""
    )


def _time(flow: flow_pb2.Flow) -> str:
    return TIME if flow.HasField("time") else "N/A"


class CompactPrinter(Printer):
    """A line for each flow, the client on the left."""

    def __init__(self, style: Style) -> None:
        super().__init__(style, style.time)

    def _flow(self, response: pb.GetFlowsResponse) -> str:
        flow, words = response.flow, self._style.words
        left, right = zip(_ends(words, flow), words.identities(flow), strict=True)
        arrow = "<>"
        if flow.HasField("is_reply"):
            arrow = "<-" if flow.is_reply.value else "->"
            left, right = (right, left) if flow.is_reply.value else (left, right)
        node = f" [{escape(flow.node_name)}]" if self._style.node_name else ""
        what = f"{event(flow)} {words.verdict(flow)} ({words.summary(flow)})"
        return f"{_time(flow)}{node}: {' '.join(left)} {arrow} {' '.join(right)} {what}\n"

    def _lost(self, response: pb.GetFlowsResponse) -> str:
        lost = response.lost_events
        when = events.lost_when(self._style.time, lost)
        return f"EVENTS LOST: {events.lost_source(lost)} CPU({lost.cpu.value}) {lost.num_events_lost}{when}\n"


class _Cells(Printer):
    """What dict and table share: the same values, below each other or beside each other."""

    def __init__(self, style: Style) -> None:
        super().__init__(style, style.time)

    def _flow(self, response: pb.GetFlowsResponse) -> str:
        flow, words = response.flow, self._style.words
        source, destination = _ends(words, flow)
        return self._cells(
            {
                "TIMESTAMP": _time(flow),
                "NODE": escape(flow.node_name),
                "SOURCE": source,
                "DESTINATION": destination,
                "TYPE": event(flow),
                "VERDICT": words.verdict(flow),
                "SUMMARY": words.summary(flow),
            }
        )

    def _lost(self, response: pb.GetFlowsResponse) -> str:
        lost, time = response.lost_events, self._style.time
        return self._cells(
            {
                "TIMESTAMP": events.stamp(time, response),
                "NODE": escape(response.node_name),
                "SOURCE": events.lost_source(lost),
                "TYPE": "EVENTS LOST",
                "VERDICT": "-",
                "SUMMARY": f"CPU({lost.cpu.value}) - {lost.num_events_lost}{events.lost_when(time, lost)}",
            }
        )

    @abstractmethod
    def _cells(self, cells: dict[str, str]) -> str:
        """The values under their names, as text; NODE is among them even if it is not to be shown."""


class DictPrinter(_Cells):
    """A block of keys and values for each flow."""

    def __init__(self, style: Style) -> None:
        super().__init__(style)
        self._started = False

    def _cells(self, cells: dict[str, str]) -> str:
        shown = (key for key in cells if key != "NODE" or self._style.node_name)
        return SEPARATOR + "".join(f"{key:>11}: {cells[key]}\n" for key in shown)

    def _write(self, lines: list[str]) -> None:
        text = "".join(lines)
        if text:
            self._style.out(text if self._started else text.removeprefix(SEPARATOR))
            self._started = True

    def _news(self, response: pb.GetFlowsResponse) -> str:
        separator = SEPARATOR if self._started else ""
        self._started = True
        return separator + events.node_block(self._style.time, response)


class TablePrinter(_Cells):
    """Columns as wide as they must be, so nothing is written before everything is there."""

    def __init__(self, style: Style) -> None:
        super().__init__(style)
        node = ("NODE",) if style.node_name else ()
        self._keys = ["TIMESTAMP", *node, "SOURCE", "DESTINATION", "TYPE", "VERDICT", "SUMMARY"]
        self._rows: list[str] = []

    def _cells(self, cells: dict[str, str]) -> str:
        return "\t".join(cells.get(key, "-") for key in self._keys)  # no cell has a tab: they are escaped

    def _write(self, lines: list[str]) -> None:
        self._rows += filter(None, lines)

    def close(self) -> None:
        """Write the table; nothing where it has no rows."""
        if self._rows:
            self._style.out(columns([self._keys, *(row.split("\t") for row in self._rows)]))


def columns(rows: Iterable[list[str]]) -> str:
    """Left-aligned columns, three spaces apart; no spaces at the end of a line but those of its last cell."""
    rows = list(rows)
    widths = [max(map(len, column)) + 3 for column in zip(*rows, strict=True)]
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)) + f"{row[-1]}\n"
        for row in rows
    )


class JsonPrinter(Printer):
    """A line of JSON for each response; `bare`: the flow alone, as it was long ago."""

    def __init__(self, style: Style, *, bare: bool = False) -> None:
        super().__init__(style, TimeText(PROTOJSON, strict=True))
        self._writer, self._bare = Writer(), bare

    def _flow(self, response: pb.GetFlowsResponse) -> str:
        flow, writer = response.flow, self._writer
        instead = {"time": f'"{TIME}"'}
        if flow.uuid == UUID_CUT:
            instead["uuid"] = f'"{UUID}"'
        protocol = flow.l4.WhichOneof("protocol")
        if protocol in PORTED:
            ports = {"source_port": SOURCE_PORT, "destination_port": DESTINATION_PORT}
            instead["l4"] = f'{{"{protocol}":{writer.message(getattr(flow.l4, protocol), ports)}}}'
        shown = writer.message(flow, instead)
        if not self._bare:
            shown = writer.message(response, {"flow": shown, "time": f'"{ANSWER_TIME}"'})
        return f"{shown}\n"

    def _lost(self, response: pb.GetFlowsResponse) -> str:
        return f"{self._writer.message(response.lost_events if self._bare else response)}\n"

    def _news(self, response: pb.GetFlowsResponse) -> str:
        return self._writer.message(response)
