"""Servers that bad clients cannot hurt."""

import os
import pwd
import socket
import subprocess
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from grpclib.const import Status as Code
from grpclib.exceptions import GRPCError
from grpclib.health.v1.health_grpc import HealthStub
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpclib.reflection.v1.reflection_grpc import ServerReflectionStub
from grpclib.reflection.v1.reflection_pb2 import ServerReflectionRequest
from grpclib.reflection.v1alpha.reflection_grpc import ServerReflectionStub as AlphaReflectionStub
from grpclib.reflection.v1alpha.reflection_pb2 import ServerReflectionRequest as AlphaRequest
from h2.events import ResponseReceived, TrailersReceived

from cplane.errors import Rejected
from cplane.pb.cplane.admin import v1 as pb
from cplane.transport.client import connect
from cplane.transport.grpc import CannotListen, Limits, Refusal, TcpAddress, UnixAddress, serve
from cplane.transport.tls import client_context, server_context
from tests.support.serving import Flood, Hooks, Policies, RawClient, Status, served, status_of

pytestmark = pytest.mark.anyio
WAIT = "/cplane.admin.v1.StatusService/Wait"
APPLY = "/cplane.admin.v1.PolicyService/Apply"
TAIL = "/cplane.admin.v1.LogService/Tail"
PATIENCE_S = 10


@pytest.fixture
def anyio_backend() -> str:
    """grpclib is written for asyncio."""
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cpt.sock"


@pytest.fixture
def hooks() -> Hooks:
    return Hooks()


async def test_a_call_is_answered_and_the_peer_is_known_by_its_user(path: Path, hooks: Hooks):
    async with served(Status(hooks), path=path) as address, connect(address) as channel:
        answer = await pb.StatusServiceStub(channel).get(pb.GetStatusRequest())
    assert answer.version == "1"
    assert hooks.callers == [f"uid:{os.getuid()}({pwd.getpwuid(os.getuid()).pw_name})"]


async def test_over_plain_tcp_the_peer_is_known_by_its_address(hooks: Hooks):
    async with anyio.create_task_group() as group:
        bound = await group.start(_serving(Status(hooks), TcpAddress("127.0.0.1", 0)))
        async with connect(str(bound[0])) as channel:
            await pb.StatusServiceStub(channel).get(pb.GetStatusRequest())
        group.cancel_scope.cancel()
    assert hooks.callers == ["tcp:127.0.0.1"]


async def test_without_a_host_both_families_are_served_and_a_taken_port_is_told(hooks: Hooks):
    async with anyio.create_task_group() as group:
        bound = await group.start(_serving(Status(hooks), TcpAddress("", 0)))
        hosts = ["127.0.0.1", "[::1]"] if socket.has_dualstack_ipv6() else ["127.0.0.1"]
        for host in hosts:
            async with connect(f"{host}:{bound[0].port}") as channel:
                await pb.StatusServiceStub(channel).get(pb.GetStatusRequest())
        with pytest.raises(CannotListen, match="Address already in use"):
            await serve([Status(hooks)], [TcpAddress("", bound[0].port)])
        group.cancel_scope.cancel()


async def test_over_tls_the_peer_is_known_by_its_certificate_and_strangers_are_refused(tmp_path: Path, hooks: Hooks):
    authority, key = _certificate(tmp_path, "relay")
    tls = server_context(authority, key, authority)
    async with anyio.create_task_group() as group:
        bound = await group.start(_serving(Status(hooks), TcpAddress("127.0.0.1", 0, tls)))
        async with connect(f"127.0.0.1:{bound[0].port}", tls=client_context(authority, authority, key)) as channel:
            await pb.StatusServiceStub(channel).get(pb.GetStatusRequest())
        with pytest.raises(Exception) as told:  # in TLS 1.3 the refusal comes at the first read
            async with connect(f"127.0.0.1:{bound[0].port}", tls=client_context(authority)) as channel:
                await pb.StatusServiceStub(channel).get(pb.GetStatusRequest())
        assert not isinstance(told.value, GRPCError)
        group.cancel_scope.cancel()
    assert hooks.callers == ["cert:relay"]


async def test_health_and_both_reflections_know_every_service(path: Path, hooks: Hooks):
    async with served(Status(hooks), Policies(), path=path) as address, connect(address) as channel:
        for name in ("", "cplane.admin.v1.StatusService"):
            health = await HealthStub(channel).Check(HealthCheckRequest(service=name))
            assert health.status == HealthCheckResponse.SERVING
        for stub, request in (
            (ServerReflectionStub, ServerReflectionRequest),
            (AlphaReflectionStub, AlphaRequest),
        ):
            answers = await stub(channel).ServerReflectionInfo(
                [
                    request(list_services=""),
                    request(file_containing_symbol="cplane.admin.v1.PolicyService"),
                    request(file_containing_symbol="grpc.health.v1.Health"),
                    request(file_containing_symbol="no.such.Thing"),
                ]
            )
            names = {service.name for service in answers[0].list_services_response.service}
            assert {"cplane.admin.v1.StatusService", "cplane.admin.v1.PolicyService"} <= names
            assert [len(one.file_descriptor_response.file_descriptor_proto) for one in answers[1:3]] == [1, 1]
            assert answers[3].error_response.error_code == Code.NOT_FOUND.value


async def test_a_request_over_the_limit_is_refused_and_the_connection_goes_on(path: Path, hooks: Hooks):
    limits = Limits(message_bytes=1000)
    async with served(Policies(), path=path, limits=limits) as address, connect(address) as channel:
        stub = pb.PolicyServiceStub(channel)
        for size in (1_001, 5_000_000):
            with pytest.raises(GRPCError) as told:
                await stub.apply(pb.ApplyPolicyRequest(documents=b"x" * size))
            assert told.value.status is Code.RESOURCE_EXHAUSTED
            assert "the limit is 1000" in (told.value.message or "")
        assert (await stub.apply(pb.ApplyPolicyRequest(documents=b"x" * 900))).position == 900


async def test_too_many_large_requests_at_a_time_are_refused_and_room_is_given_back(path: Path):
    policies = Policies()
    policies.gate = anyio.Event()
    large = pb.ApplyPolicyRequest(documents=b"x" * 2_000_000)
    async with served(policies, path=path, limits=Limits(large_messages=1)) as address:
        async with connect(address) as channel, anyio.create_task_group() as group:
            stub = pb.PolicyServiceStub(channel)
            group.start_soon(stub.apply, large)
            with anyio.fail_after(PATIENCE_S):
                await policies.began.wait()
                with pytest.raises(GRPCError) as told:
                    await stub.apply(large)
                assert told.value.status is Code.RESOURCE_EXHAUSTED
                policies.gate.set()
        async with connect(address) as channel:
            assert (await pb.PolicyServiceStub(channel).apply(large)).position == 2_000_000


async def test_a_request_that_does_not_arrive_in_time_ends_with_a_deadline(path: Path, hooks: Hooks):
    async with served(Policies(), path=path, limits=Limits(request_s=0.05)):
        client = RawClient(path)
        stream = client.open(APPLY)
        client.send(stream, b"\0\0\0\0\x05ab")
        with anyio.fail_after(PATIENCE_S):
            event = await client.until(ResponseReceived, stream)
        assert status_of(event.headers)[0] == Code.DEADLINE_EXCEEDED.value
        client.close()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x01\0\0\0\x02ab", Code.UNIMPLEMENTED),  # says that it is compressed
        (b"\0\0\0\0\x05ab", Code.INVALID_ARGUMENT),  # ends too early
        (b"\0\0\0\0\x02\xff\xff", Code.INVALID_ARGUMENT),  # is no message
        (b"", Code.INVALID_ARGUMENT),  # has no message
    ],
)
async def test_a_malformed_request_is_the_clients_fault(path: Path, data: bytes, code: Code):
    async with served(Policies(), path=path):
        client = RawClient(path)
        stream = client.open("/grpc.health.v1.Health/Check")
        client.send(stream, data, end=True)
        with anyio.fail_after(PATIENCE_S):
            event = await client.until(ResponseReceived, stream)
        assert status_of(event.headers)[0] == code.value
        client.close()


async def test_a_method_that_is_not_there_is_unimplemented_also_for_clients_that_look_at_the_content_type(path: Path):
    async with served(Policies(), path=path):
        client = RawClient(path)
        stream = client.open("/observer.Observer/GetEverything")
        client.send(stream, b"\0\0\0\0\0", end=True)
        with anyio.fail_after(PATIENCE_S):
            event = await client.until(ResponseReceived, stream)
        assert status_of(event.headers) == (Code.UNIMPLEMENTED.value, "unknown method /observer.Observer/GetEverything")
        assert dict(event.headers)["content-type"] == "application/grpc+proto"
        client.close()


async def test_bytes_that_are_not_http2_end_that_connection_only(path: Path, hooks: Hooks):
    async with served(Status(hooks), path=path) as address, connect(address) as channel:
        client = RawClient(path)
        client.socket.send(b"GET / HTTP/1.1\r\n\r\n" * 2_000)  # read as a frame of 4,670,804 bytes
        with anyio.fail_after(PATIENCE_S):
            await client.closed()
            assert (await pb.StatusServiceStub(channel).get(pb.GetStatusRequest())).version == "1"
        client.close()


async def test_a_client_that_goes_mid_call_ends_its_handler_which_can_still_clean_up(path: Path, hooks: Hooks):
    async with served(Status(hooks), path=path):
        client = RawClient(path)
        client.send(client.open(WAIT), b"\0\0\0\0\0", end=True)
        with anyio.fail_after(PATIENCE_S):
            await hooks.began.wait()
            client.close()
            await hooks.ended.wait()
    assert hooks.cleaned == ["wait"]


async def test_a_client_that_resets_its_call_ends_its_handler(path: Path, hooks: Hooks):
    async with served(Status(hooks), path=path):
        client = RawClient(path)
        stream = client.open(WAIT)
        client.send(stream, b"\0\0\0\0\0", end=True)
        with anyio.fail_after(PATIENCE_S):
            await hooks.began.wait()
            client.h2.reset_stream(stream)
            client.flush()
            await hooks.ended.wait()
        client.close()
    assert hooks.cleaned == ["wait"]


async def test_a_deadline_ends_the_handler_and_is_told(path: Path, hooks: Hooks):
    async with served(Status(hooks), path=path):
        client = RawClient(path)
        stream = client.open(WAIT, grpc_timeout="50m")
        client.send(stream, b"\0\0\0\0\0", end=True)
        with anyio.fail_after(PATIENCE_S):
            event = await client.until(ResponseReceived, stream)
        assert status_of(event.headers)[0] == Code.DEADLINE_EXCEEDED.value
        client.close()
    assert hooks.cleaned == ["wait"]


async def test_a_client_that_does_not_read_blocks_its_own_call_only(path: Path, hooks: Hooks):
    flood = Flood()
    async with served(flood, Status(hooks), path=path) as address, connect(address) as channel:
        client = RawClient(path)
        client.send(client.open(TAIL), b"\0\0\0\0\0", end=True)
        with anyio.fail_after(PATIENCE_S):
            sent = -1
            while sent != flood.sent:  # until the window of 65,535 bytes is full
                sent = flood.sent
                for _ in range(20):
                    assert (await pb.StatusServiceStub(channel).get(pb.GetStatusRequest())).version == "1"
        assert 1 <= flood.sent <= 4
        client.close()


async def test_a_client_that_goes_while_the_server_cannot_write_leaves_nothing_behind(path: Path):
    """It takes its call back first, so the call is over before the connection is, and still has its end to write."""
    flood = Flood()
    with anyio.fail_after(PATIENCE_S):
        async with served(flood, path=path):
            client = RawClient(path)
            client.h2.increment_flow_control_window(1 << 30)
            stream = client.open(TAIL)
            client.h2.increment_flow_control_window(1 << 30, stream)
            client.send(stream, b"\0\0\0\0\0", end=True)
            sent, still = 0, 0
            while still < 100:  # until the socket takes nothing more
                still = still + 1 if sent == flood.sent > 0 else 0
                sent = flood.sent
                await anyio.lowlevel.checkpoint()
            client.h2.reset_stream(stream)
            client.flush()
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            client.close()


async def test_connections_over_the_limit_are_hung_up_on_and_later_ones_are_taken(path: Path, hooks: Hooks):
    async with served(Status(hooks), path=path, limits=Limits(connections=1)) as address:
        with anyio.fail_after(PATIENCE_S):
            first = RawClient(path)
            stream = first.open(WAIT)
            first.send(stream, b"\0\0\0\0\0", end=True)
            await hooks.began.wait()
            extra = RawClient(path)
            await extra.closed()
            extra.close()
            first.close()
            await hooks.ended.wait()
            async with connect(address) as channel:
                assert (await pb.StatusServiceStub(channel).get(pb.GetStatusRequest())).version == "1"


async def test_an_error_that_is_a_refusal_is_told_with_its_trailers(path: Path, hooks: Hooks):
    async def answer(message: pb.WaitRequest) -> pb.WaitResponse:
        raise Rejected("no")

    hooks.answer = answer
    refusal = Refusal(Code.ABORTED, "told", {"cplane-error-bin": b"{}"})
    async with (
        served(Status(hooks), path=path, refuse=lambda _: refusal) as address,
        connect(address) as channel,
    ):
        with pytest.raises(GRPCError) as told:
            await pb.StatusServiceStub(channel).wait(pb.WaitRequest())
        assert (told.value.status, told.value.message) == (Code.ABORTED, "told")
        assert channel.refusal == b"{}"


async def test_an_error_that_is_a_bug_is_not_shown_to_the_client(
    path: Path, hooks: Hooks, caplog: pytest.LogCaptureFixture
):
    async def answer(message: pb.WaitRequest) -> pb.WaitResponse:
        raise ZeroDivisionError("secret")

    hooks.answer = answer
    async with served(Status(hooks), path=path) as address, connect(address) as channel:
        with pytest.raises(GRPCError) as told:
            await pb.StatusServiceStub(channel).wait(pb.WaitRequest())
        assert told.value.status is Code.UNKNOWN
        assert "secret" not in (told.value.message or "")
        assert (await pb.StatusServiceStub(channel).get(pb.GetStatusRequest())).version == "1"
    assert "ZeroDivisionError" in caplog.text


async def test_stopping_the_server_ends_its_calls_and_removes_the_socket(path: Path, hooks: Hooks):
    failures = []

    async def ask(address: str) -> None:
        try:
            async with connect(address) as channel:
                await pb.StatusServiceStub(channel).wait(pb.WaitRequest())
        except Exception as error:  # noqa: BLE001  # which one depends on what arrives first
            failures.append(error)

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as group, served(Status(hooks), path=path) as address:
            group.start_soon(ask, address)
            await hooks.began.wait()
    assert hooks.cleaned == ["wait"]
    assert len(failures) == 1
    assert not await anyio.Path(path).exists()


async def test_a_client_scope_that_ends_a_call_does_not_disturb_later_scopes(path: Path, hooks: Hooks):
    async with served(Status(hooks), path=path) as address, connect(address) as channel:
        stub = pb.StatusServiceStub(channel)
        with pytest.raises((TimeoutError, GRPCError)) as ended:  # whoever of the two notices first
            await stub.wait(pb.WaitRequest(), timeout=0.05)
        assert isinstance(ended.value, TimeoutError) or ended.value.status is Code.DEADLINE_EXCEEDED
        with anyio.move_on_after(0.05) as scope:
            await stub.wait(pb.WaitRequest())
        assert scope.cancelled_caught
        assert (await stub.get(pb.GetStatusRequest())).version == "1"


async def test_trailers_follow_answers_that_have_begun(path: Path):
    async with served(Flood(), path=path, refuse=lambda _: None):
        client = RawClient(path)
        stream = client.open(TAIL, grpc_timeout="50m")
        client.send(stream, b"\0\0\0\0\0", end=True)
        with anyio.fail_after(PATIENCE_S):
            event = await client.until(TrailersReceived, stream)
        assert status_of(event.headers)[0] == Code.DEADLINE_EXCEEDED.value
        client.close()


def _serving(service: object, address: UnixAddress | TcpAddress):  # anyio's start takes it
    async def start(*, task_status: anyio.abc.TaskStatus[tuple[UnixAddress | TcpAddress, ...]]) -> None:
        await serve([service], [address], task_status=task_status)  # type: ignore[list-item]  # shape of grpclib

    return start


def _certificate(folder: Path, name: str) -> tuple[str, str]:
    """A certificate for `name` at 127.0.0.1 that is its own authority, and its key: paths."""
    certificate, key = str(folder / "cert.pem"), str(folder / "key.pem")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-keyout", key, "-out", certificate, "-days", "2", "-subj", f"/CN={name}"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return certificate, key
