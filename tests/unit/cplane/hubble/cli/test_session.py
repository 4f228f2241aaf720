"""Ways to a server that ask for more than an address: a password, and a cluster's own."""

import base64
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import pytest
from click.testing import CliRunner, Result

from cplane.hubble.cli.main import cli
from cplane.hubble.cli.portforward import Cluster
from cplane.pb.observer import observer_pb2 as pb
from cplane.transport.grpc import TcpAddress, serve
from cplane.transport.tls import server_context
from tests.support.answering import Answering
from tests.support.tree import ROOT

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
NODES = "/observer.Observer/GetNodes"
ANSWER = pb.GetNodesResponse(nodes=[pb.Node(name="a")])
PROGRAM = [sys.executable, "-m", "cplane.hubble.cli.main"]
LISTED = "NAME   STATUS    AGE   FLOWS/S   CURRENT/MAX-FLOWS\na      Unknown   N/A   N/A       N/A\n"


@pytest.fixture
def anyio_backend() -> str:
    """grpclib is written for asyncio."""
    return "asyncio"


@asynccontextmanager
async def served(service: Answering, address: TcpAddress) -> AsyncIterator[TcpAddress]:
    async with anyio.create_task_group() as group:

        async def start(*, task_status: anyio.abc.TaskStatus[tuple[TcpAddress, ...]]) -> None:
            await serve([service], [address], task_status=task_status)

        (bound,) = await group.start(start)
        yield bound
        group.cancel_scope.cancel()


async def run(*words: str, **environment: str) -> Result:
    return await anyio.to_thread.run_sync(
        lambda: CliRunner().invoke(cli, words, prog_name="hubble", env={"HUBBLE_SERVER": "", **environment})
    )


async def test_a_password_goes_with_every_call_and_never_without_tls(tmp_path: Path):
    certificate, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=x"]
    try:
        await anyio.run_process(command)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    service = Answering({NODES: [ANSWER], "/observer.Observer/GetAgentEvents": []})
    words = ("--basic-auth-username", "me", "--tls-allow-insecure")
    mine = ("--tls-client-cert-file", certificate, "--tls-client-key-file", key)
    secret = {"HUBBLE_BASIC_AUTH_PASSWORD": "pass:wörd"}
    expected = f"Basic {base64.b64encode('me:pass:wörd'.encode()).decode()}"
    tls = server_context(certificate, key, certificate)
    async with served(service, TcpAddress("127.0.0.1", 0, tls)) as bound:
        for command in (["list", "nodes"], ["observe", "agent-events"]):
            service.metadata = {}
            # in a process of its own: a loop that ends in this one may leave a connection that is still closing
            shown = [*PROGRAM, *command, "--server", f"tls://{bound}", *words, *mine]
            done = await anyio.run_process(shown, env={"PYTHONPATH": str(ROOT), **secret}, check=False)
            assert (done.returncode, done.stderr) == (0, b"")
            assert service.metadata["authorization"] == expected
        declined = await run("list", "nodes", "--server", str(bound), *words, **secret)
    assert (declined.exit_code, declined.stderr) == (
        1,
        "basic authentication needs TLS: anybody between could read the password (use --tls)\n",
    )


def kubectl(folder: Path, script: str) -> dict[str, str]:
    """An environment in which that is kubectl. It notes its arguments and its process in `folder`."""
    program = folder / "kubectl"
    program.write_text(f'#!/bin/sh\necho "$@" > {folder}/arguments\necho $$ > {folder}/pid\n{script}\n')
    program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


async def test_a_clusters_relay_is_reached_through_kubectl(tmp_path: Path):
    service = Answering({NODES: [ANSWER]})
    async with served(service, TcpAddress("127.0.0.1", 0)) as bound:
        script = f'echo "Forwarding from 127.0.0.1:{bound.port} -> 4245"; exec sleep 60'
        environment = kubectl(tmp_path, script)
        done = await run("list", "nodes", "-P", "--kube-context", "c", "--port-forward-port", "0", **environment)
        assert (done.exit_code, done.stdout, done.stderr) == (0, LISTED, "")
    assert (tmp_path / "arguments").read_text() == (
        "--context c --namespace kube-system port-forward --address=127.0.0.1 service/hubble-relay :80\n"
    )
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ('echo "error: no such context" >&2; exit 1', "port forward failed: error: no such context\n"),
        ("exit 0", "port forward failed: kubectl ended without a word\n"),
        ("exec sleep 60", "port forward failed: kubectl did not forward within 0.2 s\n"),
    ],
)
async def test_a_kubectl_that_fails_is_told(tmp_path: Path, script: str, told: str):
    done = await run("list", "nodes", "-P", "--timeout", "200ms", **kubectl(tmp_path, script))
    if "0.2 s" not in told:
        done = await run("list", "nodes", "-P", **kubectl(tmp_path, script))
    assert (done.exit_code, done.stderr) == (1, told)


async def test_without_kubectl_or_a_port_it_is_told_too(tmp_path: Path):
    done = await run("list", "nodes", "-P", PATH=str(tmp_path))
    assert (done.exit_code, done.stderr) == (1, "port forward failed: there is no kubectl on the PATH\n")
    done = await run("list", "nodes", "-P", "--port-forward-port", "65536")
    assert (done.exit_code, done.stderr) == (1, "--port-forward-port: '65536' is not a port (0 to 65535)\n")


def test_kubectl_is_told_only_what_it_does_not_know():
    assert Cluster(4245, namespace="x", kubeconfig="/k").command() == [
        *("kubectl", "--namespace", "x", "--kubeconfig", "/k", "port-forward", "--address=127.0.0.1"),
        *("service/hubble-relay", "4245:80"),
    ]
