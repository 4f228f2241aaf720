"""A server's certificate files change while it serves."""

import os
from functools import partial
from pathlib import Path
from ssl import SSLContext

import anyio
import pytest
from grpclib.exceptions import GRPCError

from cplane.pb.cplane.admin import v1 as pb
from cplane.transport.client import Unreachable, connect
from cplane.transport.grpc import TcpAddress, UnixAddress, serve
from cplane.transport.tls import BadCertificate
from tests.support.certificates import Certificates
from tests.support.serving import Hooks, Status

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def site(tmp_path: Path) -> Certificates:
    made = Certificates(tmp_path)
    for name in ("one", "two"):
        made.make(name)
    made.serve_as("one")
    made.put(made.ca, made.of("one", "crt"))
    return made


async def ask(port: int, tls: SSLContext) -> None:
    async with connect(f"127.0.0.1:{port}", tls=tls) as channel:
        await pb.StatusServiceStub(channel).get(pb.GetStatusRequest())


async def listening(tasks: anyio.abc.TaskGroup, hooks: Hooks, context: SSLContext) -> int:
    address: UnixAddress | TcpAddress = TcpAddress("127.0.0.1", 0, context)
    bound = await tasks.start(partial(serve, [Status(hooks)], [address]))
    return int(bound[0].port)


@pytest.mark.slow
async def test_new_connections_meet_the_new_certificate_and_old_ones_go_on(site: Certificates) -> None:
    async with anyio.create_task_group() as tasks:
        port = await listening(tasks, Hooks(), site.context())
        async with connect(f"127.0.0.1:{port}", tls=site.trusting("one")) as old:
            await pb.StatusServiceStub(old).get(pb.GetStatusRequest())
            site.serve_as("two")
            await ask(port, site.trusting("two"))
            with pytest.raises(Unreachable):
                await ask(port, site.trusting("one"))
            await pb.StatusServiceStub(old).get(pb.GetStatusRequest())
        tasks.cancel_scope.cancel()
    assert site.failures == []


async def test_clients_of_an_authority_that_was_taken_away_are_sent_away(site: Certificates) -> None:
    hooks = Hooks()
    async with anyio.create_task_group() as tasks:
        port = await listening(tasks, hooks, site.context(clients=True))
        await ask(port, site.trusting("one", own="one"))
        site.put(site.ca, site.of("two", "crt"))
        await ask(port, site.trusting("one", own="two"))
        with pytest.raises(Exception) as told:  # in TLS 1.3 the refusal comes at the first read
            await ask(port, site.trusting("one", own="one"))
        assert not isinstance(told.value, GRPCError)
        tasks.cancel_scope.cancel()
    assert hooks.callers == ["cert:one", "cert:two"]


async def test_while_only_one_of_two_files_is_new_the_old_ones_are_in_force_and_it_is_told_once(
    site: Certificates,
) -> None:
    async with anyio.create_task_group() as tasks:
        port = await listening(tasks, Hooks(), site.context())
        site.put(site.cert, site.of("two", "crt"))
        for _ in range(2):
            await ask(port, site.trusting("one"))
        assert [one.path for one in site.failures] == [site.cert]
        site.put(site.key, site.of("two", "key"))
        await ask(port, site.trusting("two"))
        tasks.cancel_scope.cancel()
    assert len(site.failures) == 1


async def test_files_that_are_gone_leave_what_was_there(site: Certificates) -> None:
    async with anyio.create_task_group() as tasks:
        port = await listening(tasks, Hooks(), site.context())
        os.unlink(site.cert)
        await ask(port, site.trusting("one"))
        tasks.cancel_scope.cancel()
    assert [str(one) for one in site.failures] == [f"certificate {site.cert!r}: No such file or directory"]


def test_at_the_start_files_must_be_usable(site: Certificates) -> None:
    os.unlink(site.key)
    with pytest.raises(BadCertificate):
        site.context()
