"""An admin socket in front of an engine without a datapath, and the command line beside it."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from click.testing import CliRunner

from cplane.api.errors import refuse
from cplane.api.server import admin_services
from cplane.cli.main import cli
from cplane.transport.client import ClientChannel, connect
from tests.support.engine import ListEngine, agent
from tests.support.serving import served

ROOT = Path(__file__).parent.parent.parent

ALLOW_WEB = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
"""
DENY_ALL = """\
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: nothing}
spec:
  endpointSelector: {}
  ingress: [{}]
"""


@asynccontextmanager
async def administered(engine: ListEngine, path: Path, **changes: Any) -> AsyncIterator[ClientChannel]:
    """A channel to the admin services of the engine; `changes` are fields of the agent that differ."""
    services = admin_services(engine, agent(**changes))
    async with served(*services, path=path, refuse=refuse) as address, connect(address) as channel:
        yield channel


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


async def cplane(path: Path, *arguments: str, stdin: str | bytes = "") -> Ran:
    """Run the command line as a process of its own against the socket."""
    command = [sys.executable, "-m", "cplane.cli.main", "--server", f"unix://{path}", *arguments]
    data = stdin.encode() if isinstance(stdin, str) else stdin
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
    done = await anyio.run_process(command, input=data, check=False, env=environment)
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


async def run(path: Path, *arguments: str, stdin: str | bytes = "") -> Ran:
    """Run the command line in this process, in a thread: quicker than a process of its own."""
    command = ["--server", f"unix://{path}", *arguments]
    invoke = partial(CliRunner().invoke, cli, command, input=stdin, prog_name="cplane")
    done = await anyio.to_thread.run_sync(invoke)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Ran(done.exit_code, done.stdout, done.stderr)
