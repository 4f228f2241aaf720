"""A server's certificate files change while it serves."""

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path
from ssl import SSLContext

import anyio
import pytest
from grpclib.exceptions import GRPCError

from cplane.pb.cplane.admin import v1 as pb
from cplane.transport.client import Unreachable, connect
from cplane.transport.grpc import TcpAddress, UnixAddress, serve
from cplane.transport.tls import BadCertificate, ReloadingContext, client_context
from tests.support.serving import Hooks, Status

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Site:
    """A folder with certificates, each its own authority, and one set of files that a server follows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cert, self.key, self.ca = (str(folder / name) for name in ("tls.crt", "tls.key", "ca.crt"))
        self.failures: list[BadCertificate] = []

    def make(self, name: str) -> None:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-keyout", self.of(name, "key"), "-out", self.of(name, "crt"), "-days", "2", "-subj", f"/CN={name}"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1"]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("openssl is not installed")

    def of(self, name: str, kind: str) -> str:
        return str(self.folder / f"{name}.{kind}")

    def put(self, target: str, source: str) -> None:
        """As everybody should write files, and kubelet does: beside them, and then in their place."""
        shutil.copy(source, f"{target}.new")
        os.replace(f"{target}.new", target)

    def serve_as(self, name: str) -> None:
        self.put(self.cert, self.of(name, "crt"))
        self.put(self.key, self.of(name, "key"))

    def context(self, *, clients: bool = False) -> ReloadingContext:
        return ReloadingContext.of(self.cert, self.key, self.ca if clients else "", failed=self.failures.append)

    def trusting(self, name: str, own: str = "") -> SSLContext:
        return client_context(self.of(name, "crt"), *((self.of(own, "crt"), self.of(own, "key")) if own else ()))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
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
async def test_new_connections_meet_the_new_certificate_and_old_ones_go_on(site: Site) -> None:
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


async def test_clients_of_an_authority_that_was_taken_away_are_sent_away(site: Site) -> None:
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


async def test_while_only_one_of_two_files_is_new_the_old_ones_are_in_force_and_it_is_told_once(site: Site) -> None:
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


async def test_files_that_are_gone_leave_what_was_there(site: Site) -> None:
    async with anyio.create_task_group() as tasks:
        port = await listening(tasks, Hooks(), site.context())
        os.unlink(site.cert)
        await ask(port, site.trusting("one"))
        tasks.cancel_scope.cancel()
    assert [str(one) for one in site.failures] == [f"certificate {site.cert!r}: No such file or directory"]


def test_at_the_start_files_must_be_usable(site: Site) -> None:
    os.unlink(site.key)
    with pytest.raises(BadCertificate):
        site.context()
