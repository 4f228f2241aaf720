"""A way to a relay inside a Kubernetes cluster: `kubectl port-forward`, for as long as a command runs."""

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from cplane.hubble.cli.failure import Failed

SERVICE: Final = "service/hubble-relay"
_SERVICE_PORT: Final = 80
_READY: Final = b"Forwarding from 127.0.0.1:"
_LINE_MAX: Final = 1 << 16  # bytes


@dataclass(frozen=True)
class Cluster:
    """Where the relay is; texts are empty for what kubectl knows by itself. `port` 0: any that is free."""

    port: int
    context: str = ""
    namespace: str = ""
    kubeconfig: str = ""

    def command(self) -> list[str]:
        """What opens the way."""
        options = (("--context", self.context), ("--namespace", self.namespace), ("--kubeconfig", self.kubeconfig))
        given = [word for name, value in options if value for word in (name, value)]
        return ["kubectl", *given, "port-forward", "--address=127.0.0.1", SERVICE, f"{self.port or ''}:{_SERVICE_PORT}"]


@asynccontextmanager
async def forwarded(cluster: Cluster, patience_s: float) -> AsyncIterator[str]:
    """The address at which the relay can be reached within the block. Raises Failed."""
    try:
        process = await anyio.open_process(
            cluster.command(), stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True
        )  # in a session of its own, so that an interrupt of ours does not end it before us
    except FileNotFoundError:
        raise Failed("port forward failed: there is no kubectl on the PATH") from None
    async with process:
        assert process.stdout is not None
        try:
            with anyio.fail_after(patience_s):
                port = await _port(BufferedByteReceiveStream(process.stdout))
            yield f"127.0.0.1:{port}"
        except TimeoutError:
            raise Failed(f"port forward failed: kubectl did not forward within {patience_s:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()


async def _port(output: BufferedByteReceiveStream) -> int:
    """The local port, as soon as kubectl has it."""
    told: list[str] = []
    try:
        while True:
            line = await output.receive_until(b"\n", _LINE_MAX)
            if line.startswith(_READY):
                return int(line.removeprefix(_READY).split()[0])
            told.append(line.decode(errors="replace"))
    except (anyio.EndOfStream, anyio.IncompleteRead, anyio.DelimiterNotFound):
        raise Failed(f"port forward failed: {'; '.join(told) or 'kubectl ended without a word'}") from None
