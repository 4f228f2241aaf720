"""A server that gives prepared answers, for methods that our own observers do not have."""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import Message
from grpclib.const import Cardinality, Handler

from cplane.pb.observer import observer_pb2 as pb
from cplane.pb.peer import peer_pb2
from cplane.transport.grpc import caller

_METHODS = {
    "/observer.Observer/GetFlows": (Cardinality.UNARY_STREAM, pb.GetFlowsRequest, pb.GetFlowsResponse),
    "/observer.Observer/GetAgentEvents": (
        Cardinality.UNARY_STREAM,
        pb.GetAgentEventsRequest,
        pb.GetAgentEventsResponse,
    ),
    "/observer.Observer/GetDebugEvents": (
        Cardinality.UNARY_STREAM,
        pb.GetDebugEventsRequest,
        pb.GetDebugEventsResponse,
    ),
    "/observer.Observer/GetNodes": (Cardinality.UNARY_UNARY, pb.GetNodesRequest, pb.GetNodesResponse),
    "/observer.Observer/ServerStatus": (Cardinality.UNARY_UNARY, pb.ServerStatusRequest, pb.ServerStatusResponse),
    "/peer.Peer/Notify": (Cardinality.UNARY_STREAM, peer_pb2.NotifyRequest, peer_pb2.ChangeNotification),
}


class Answering:
    """Sends the answers of a method, whatever is asked. `asked`: the requests; `metadata`: of the last one."""

    def __init__(self, answers: Mapping[str, Sequence[Message]]) -> None:
        self._answers = answers
        self.asked: list[Message] = []
        self.callers: list[str] = []
        self.metadata: Mapping[str, Any] = {}

    def __mapping__(self) -> dict[str, Handler]:
        return {name: Handler(self._answer(name), *_METHODS[name]) for name in self._answers}

    def _answer(self, name: str) -> Any:
        async def answer(stream: Any) -> None:
            self.callers.append(caller())
            self.metadata = dict(stream.metadata)
            self.asked.append(await stream.recv_message())
            for one in self._answers[name]:
                await stream.send_message(one)

        return answer
