"""Envoy as a back end of redirections: its process, what it is told, and the records of access that it sends."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import TaskGroup

from cplane.domain.access import Access
from cplane.domain.policy.redirection import Redirection
from cplane.errors import CplaneError, leaves
from cplane.proxy.envoy import NAME, EnvoyOptions, connections, program, records_dropped
from cplane.proxy.process import Process, Program
from cplane.telemetry.log import line, logger
from cplane.transport.address import UnixAddress
from cplane.xds.secrets import Source
from cplane.xds.server import Options, Server

RETRY_S: Final = 5.0
_SOCKET_MODE: Final = 0o600

log = logger("proxy")


@dataclass(frozen=True, slots=True)
class Settings:
    """`folder` has what belongs to proxies' processes."""

    folder: Path
    secrets: Source
    node: str
    concurrency: int = 2


async def written(options: EnvoyOptions) -> Program:
    """How Envoy is run, once its bootstrap could be written: a full disk ends no agent."""
    while True:
        try:
            return program(options)
        except OSError as error:
            log.warning(line("proxy not started", kind=NAME, error=str(error)))
        await anyio.sleep(RETRY_S)


class Envoy:
    """Serves redirections of the parsers `http` and `tls`; one is in force as soon as `run` has Envoy running."""

    def __init__(self, settings: Settings, seen: Callable[[list[Access]], None]) -> None:
        self._address = UnixAddress(str(settings.folder / "xds.sock"), _SOCKET_MODE)
        self._server = Server(Options(settings.secrets), seen)
        options = EnvoyOptions(settings.folder, Path(self._address.path), settings.node, settings.concurrency)
        self._options = options
        self.process: Process | None = None

    async def apply(self, put: Mapping[int, Redirection], gone: Collection[int]) -> None:
        """Redirections are as said; the first call says all there are."""
        await self._server.apply(put, gone)

    async def run(self) -> None:
        """Envoy runs and is served until this is cancelled. Then it goes on by itself."""
        async with anyio.create_task_group() as group:
            while True:
                if await self._is_served(group):
                    break
                await anyio.sleep(RETRY_S)
            self.process = Process(await written(self._options))
            group.start_soon(self.process.run)

    async def _is_served(self, group: TaskGroup) -> bool:
        """Whether Envoy can connect; why it cannot is told: a folder that was removed ends no agent."""
        fault = ""
        try:
            await group.start(self._server.serve, self._address)
        except* CplaneError as errors:
            fault = ", ".join(map(str, leaves(errors)))
            log.warning(line("proxy not served", kind=NAME, error=fault))
        return not fault

    @property
    def is_connected(self) -> bool:
        """Whether Envoy hears what it is told."""
        return self._server.is_connected

    async def connections(self) -> int | None:
        """Connections of clients that speak HTTP with it; None: it does not say."""
        return await connections(self._options.folder)

    async def records_dropped(self) -> int:
        """Records of access that were lost at Envoy since it started, as the agent did not take them in time."""
        return await records_dropped(self._options.folder)

    def problems(self) -> Mapping[int, str]:
        """By proxy port: why it is not in force, or not all of it."""
        return self._server.problems()
