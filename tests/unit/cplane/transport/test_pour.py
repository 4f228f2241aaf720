"""Many messages in one write, whatever the client's windows and frames are."""

from pathlib import Path
from typing import Any

import pytest
from grpclib.client import UnaryStreamMethod
from grpclib.const import Cardinality, Handler
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.exceptions import ProtocolError

from cplane.pb.observer import observer_pb2 as pb
from cplane.transport.client import Windows, connect
from cplane.transport.pour import pour
from tests.support.serving import served

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def message(number: int, size: int) -> bytes:
    data = pb.GetFlowsResponse(node_name=f"{number} {'x' * size}").SerializeToString()
    return b"\0" + len(data).to_bytes(4, "big") + data


class Pouring:
    """Answers with these bytes, poured."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = parts
        self.failure: Exception | None = None

    def __mapping__(self) -> dict[str, Handler]:
        return {"/x.X/Go": Handler(self.go, Cardinality.UNARY_STREAM, pb.GetFlowsRequest, pb.GetFlowsResponse)}

    async def go(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_initial_metadata()
        try:
            for part in self._parts:
                await pour(stream, part)
        except (GRPCError, StreamTerminatedError, ProtocolError) as error:
            self.failure = error
            raise


@pytest.mark.parametrize("windows", [Windows(), Windows(70_000, 70_000), Windows(1 << 20, 66_000)])
async def test_everything_arrives_in_order_through_any_window(tmp_path: Path, windows: Windows) -> None:
    parts = [b"".join(message(number, 300) for number in range(start, start + 900)) for start in (0, 900)]
    one = Pouring(*parts, b"", message(1800, 400_000))
    async with served(one, path=tmp_path / "s") as address, connect(address, windows=windows) as channel:
        method: UnaryStreamMethod[pb.GetFlowsRequest, pb.GetFlowsResponse] = UnaryStreamMethod(
            channel, "/x.X/Go", pb.GetFlowsRequest, pb.GetFlowsResponse
        )
        answer = await method(pb.GetFlowsRequest())
        assert [int(one.node_name.split()[0]) for one in answer] == list(range(1801))
        again = await method(pb.GetFlowsRequest())  # the windows were accounted for
        assert len(again) == 1801
