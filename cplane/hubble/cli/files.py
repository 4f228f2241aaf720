"""Flows out of a file: lines of JSON, as `observe -o jsonpb` and exporters write them, or bare flows as of old."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask

from cplane.hubble.cli.failure import Failed
from cplane.hubble.cli.matching import Test, chosen
from cplane.hubble.cli.reading import Reader
from cplane.hubble.cli.request import EVERYTHING
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2 as pb

LINE_MAX: Final = 16 << 20  # bytes
LAST_MAX: Final = 1 << 20  # flows that `--last` may hold back
WARNINGS_MAX: Final = 10  # lines that are told one by one
_CHUNK: Final = 1 << 16
_WRAPPED: Final = frozenset({"flow", "node_status", "lost_events", "agent_event", "debug_event"})


def show_file(
    path: str, request: pb.GetFlowsRequest, show: Callable[[list[bytes]], None], warn: Callable[[str], None]
) -> None:
    """What the request selects from the file was shown, as it was read; `-` is standard input. Raises Failed.

    A line that is no flow is told to `warn` and passed over; a file without any other lines is refused.
    """
    source = _Input(path, request, warn)
    if request.number and not request.first and request.number < EVERYTHING:
        _check_last(request.number)
        kept = deque((one for batch in source.batches() for one in batch), maxlen=request.number)
        show(list(kept))
    else:
        for batch in source.batches():
            show(batch)
    source.conclude()


def _check_last(number: int) -> None:
    if number > LAST_MAX:
        raise Failed(f"--last {number}: of a file these may be {LAST_MAX} at most; --all shows all of them")


class _Input:
    """Reads the responses that a request selects."""

    def __init__(self, path: str, request: pb.GetFlowsRequest, warn: Callable[[str], None]) -> None:
        self._path, self._request, self._warn = path, request, warn
        self._name = "standard input" if path == "-" else path
        self._chosen: Test = chosen(request.whitelist, request.blacklist)
        self._since, self._until = (
            getattr(request, name).ToNanoseconds() if request.HasField(name) else None for name in ("since", "until")
        )
        self._mask = FieldMask(paths=request.field_mask.paths) if request.field_mask.paths else None
        self._left = request.number if request.first else EVERYTHING
        self._lines = self._wrong = 0
        self._reader = Reader()

    def batches(self) -> Iterator[list[bytes]]:
        """Encoded responses, as many at a time as can be read at once."""
        try:
            file = sys.stdin.buffer if self._path == "-" else open(self._path, "rb")  # noqa: SIM115  # closed below
        except OSError as error:
            raise Failed(f"failed to open {self._name}: {error.strerror}") from None
        try:
            for lines in _lines(file, self._name):
                batch = [found for line in lines if line.strip() and (found := self._selected(line)) is not None]
                if batch:
                    yield batch[: self._left]
                    self._left -= len(batch[: self._left])
                if not self._left:
                    return
        except OSError as error:
            raise Failed(f"failed to read {self._name}: {error.strerror}") from None
        finally:
            if self._path != "-":
                file.close()

    def _selected(self, line: bytes) -> bytes | None:
        self._lines += 1
        try:
            response = parse_line(line, self._reader)
        except ValueError as error:
            self._wrong += 1
            if self._wrong <= WARNINGS_MAX:
                self._warn(f"{self._name}, line {self._lines}: not a flow: {error}")
            return None
        if not response.HasField("flow"):
            return response.SerializeToString() if response.WhichOneof("response_types") else None
        flow = response.flow
        at = (flow.time if flow.HasField("time") else response.time).ToNanoseconds()
        early, late = self._since is not None and at < self._since, self._until is not None and at > self._until
        if early or late or not self._chosen(flow):
            return None
        if self._mask is not None:
            masked = flow_pb2.Flow()
            self._mask.MergeMessage(flow, masked)
            flow.CopyFrom(masked)
        return response.SerializeToString()

    def conclude(self) -> None:
        """Tell how much was passed over. Raises Failed where that was everything."""
        if self._wrong and self._wrong == self._lines:
            raise Failed(f"{self._name}: none of its {self._lines} lines is a flow; write it with observe -o jsonpb")
        if self._wrong > WARNINGS_MAX:
            self._warn(f"{self._name}: {self._wrong - WARNINGS_MAX} more lines are not flows")


def _lines(file: BinaryIO, name: str) -> Iterator[list[bytes]]:
    """Whole lines, as many at a time as have come. Raises Failed for one that does not end."""
    rest = b""
    while data := os.read(file.fileno(), _CHUNK):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > LINE_MAX:
            raise Failed(f"{name}: a line has more than {LINE_MAX} bytes; these are not lines of JSON")
        yield lines
    yield [rest]


def parse_line(line: bytes, reader: Reader) -> pb.GetFlowsResponse:
    """The response that a line of JSON holds, or the response with the flow that it holds. Raises ValueError."""
    import json

    try:
        content = json.loads(line)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it is no object")  # noqa: TRY004  # the line is wrong, not a type of ours
    if not isinstance(content.get("flow"), dict | None):  # the library would take letters for names of fields
        raise ValueError("its flow is no object")  # noqa: TRY004  # as above
    try:
        if not _WRAPPED.isdisjoint(content):  # an exporter's may hold agent events, which a response does not
            return reader.message(pb.GetFlowsResponse, content)
        flow = reader.message(flow_pb2.Flow, content)
    except json_format.ParseError as error:
        raise ValueError(str(error)) from None
    if not flow.ListFields():
        raise ValueError("it has no field of a flow")
    return pb.GetFlowsResponse(flow=flow, node_name=flow.node_name, time=flow.time if flow.HasField("time") else None)
