"""Connected UDP sockets whose backend has left their service are ended, as nothing else would tell them."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final, Protocol

import anyio
from anyio import to_thread

from cplane.deciders.servicestate import ServiceState
from cplane.deciders.world import World
from cplane.domain.service import ServiceName
from cplane.engine.engine import Turn
from cplane.events.service import BackendsChanged, ServiceDeleted, ServiceUpserted
from cplane.telemetry.log import line, logger
from datapath.errors import DatapathError
from datapath.gc.sockets import ANYWHERE, Serves, Stale
from datapath.netlink.errors import NoNamespace
from datapath.netlink.sockets import Connected, NotSupported

_PAUSE_S: Final = 0.2  # between two looks at all sockets, however often backends change
_AGAIN_S: Final = 5.0  # until the next one where something could not be looked at, or ended

log = logger("services")


class Sockets(Protocol):
    """What is needed of a datapath. The functions block and are called from worker threads."""

    @property
    def netns_cookie(self) -> int:
        """Of the node's own network namespace."""
        ...

    @property
    def stale_sockets(self) -> Callable[[Serves], Stale]:
        """As `datapath.gc.sockets.stale`."""
        ...

    @property
    def end_sockets(self) -> Callable[[str, Collection[Connected]], int]:
        """As `datapath.netlink.sockets.end_datagrams`."""
        ...


class Enforcement(Protocol):
    """What is needed of an engine."""

    @property
    def world(self) -> World:
        """Everything that is true now."""
        ...

    @property
    def head(self) -> int:
        """The position of the last event."""
        ...

    async def wait(self, position: int) -> None:
        """Returns when the datapath has everything up to `position`."""
        ...


class StaleSockets:
    """Looks at all sockets that were sent to backends when backends have left, and at the start."""

    def __init__(self, datapath: Sockets) -> None:
        self._datapath = datapath
        self._more = anyio.Event()
        self._more.set()
        self._faults: dict[str, str] = {}  # what went wrong in the last look: by namespace, or with the look itself

    def turn(self, turn: Turn) -> None:
        """The engine has taken a command."""
        if any(isinstance(event, BackendsChanged | ServiceDeleted | ServiceUpserted) for event in turn.events):
            self._more.set()

    async def run(self, engine: Enforcement) -> None:
        """Until cancelled, or where the kernel cannot end sockets."""
        while True:
            await self._more.wait()
            self._more = anyio.Event()
            await engine.wait(engine.head)  # only then nobody is sent to what is gone
            if not await self.look(engine):
                return
            if self._faults:
                self._more.set()
            await anyio.sleep(_AGAIN_S if self._faults else _PAUSE_S)

    async def look(self, engine: Enforcement) -> bool:
        """Once; whether it is worth looking again. What goes wrong is told, unless it did the last time."""
        before, self._faults = self._faults, {}
        try:
            stale = await to_thread.run_sync(self._datapath.stale_sockets, _Serving(engine))
        except DatapathError as error:
            self._fail("sockets.not_looked_at", "all", error, before)
            return True
        anywhere = stale.pop(ANYWHERE, set())
        for cookie, path in _namespaces(engine, self._datapath.netns_cookie):
            wanted = stale.get(cookie, set()) | anywhere
            if not wanted:
                continue
            try:
                ended = await to_thread.run_sync(self._datapath.end_sockets, path, wanted)
            except NotSupported as error:
                log.warning(line("services", kind="sockets.not_ended", error=str(error)))
                return False
            except NoNamespace:
                continue  # and its sockets with it
            except DatapathError as error:
                self._fail("sockets.not_ended", path, error, before)
            else:
                if ended:
                    log.info(line("services", kind="sockets.ended", path=path, deletes=ended))
        return True

    def _fail(self, kind: str, path: str, error: DatapathError, before: Mapping[str, str]) -> None:
        self._faults[path] = str(error)
        if before.get(path) != str(error):
            log.warning(line("services", kind=kind, path=path, error=str(error)))


class _Serving:
    """Whether connections to a frontend may be with a backend: also those that get no new ones.

    Answers with what is true when it is asked first: a socket may be with a backend that there was not before.
    """

    def __init__(self, engine: Enforcement) -> None:
        self._engine = engine
        self._state: ServiceState | None = None
        self._backends: dict[ServiceName, frozenset[int]] = {}

    def __call__(self, frontend: int, backend: int) -> bool:
        if self._state is None:
            self._state = self._engine.world.service
        key = self._state.frontend_ids.get(frontend)
        if key is None:
            return False
        _, name = self._state.frontends[key]
        if name not in self._backends:
            self._backends[name] = frozenset(one.id for one in self._state.backends(name))
        return backend in self._backends[name]


def _namespaces(engine: Enforcement, own: int) -> Iterator[tuple[int, str]]:
    """Cookie and path of every network namespace that we know, the node's first."""
    yield own, ""
    for endpoint in list(engine.world.endpoints.values()):
        if endpoint.netns_cookie:
            yield endpoint.netns_cookie, endpoint.netns
