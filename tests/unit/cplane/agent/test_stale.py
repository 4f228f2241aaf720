"""When backends leave, which sockets are ended, and where."""

from collections.abc import Callable, Collection

import anyio
import anyio.from_thread
import pytest

from cplane.agent import stale
from cplane.agent.stale import StaleSockets
from cplane.deciders.service import ApplyServices, DeleteServices, SetBackendState
from cplane.deciders.world import Command
from cplane.domain.ports import Protocol
from cplane.domain.service import Backend, Backends, BackendState, Frontend, FrontendKind, Service, ServiceName
from cplane.engine.engine import Turn
from datapath.errors import DatapathError
from datapath.gc.sockets import ANYWHERE, Serves, Stale
from datapath.netlink.errors import KernelRefused, NoNamespace
from datapath.netlink.sockets import Connected, NotSupported, Remote
from tests.support.engine import ListEngine
from tests.support.scenario import pod

pytestmark = pytest.mark.anyio

OWN, WEB, CLIENT = 1, 11, 12
DNS = ServiceName("shop", "dns")


def backends(*addresses: str, state: BackendState = BackendState.ACTIVE) -> ApplyServices:
    given = tuple(Backend(address, 53, Protocol.UDP, state=state) for address in addresses)
    frontend = Frontend("10.96.0.10", 53, Protocol.UDP, FrontendKind.CLUSTER_IP)
    service = Service(name=DNS, frontends=(frontend,))
    return ApplyServices(services=(service,), backends=(Backends(DNS, "s", given),))


class Kernel:
    """Has sockets, each with its frontend and backend, by the cookie of their network namespace."""

    netns_cookie = OWN

    def __init__(
        self,
        *held: tuple[int, int, int, int],
        broken: dict[str, DatapathError] | None = None,
        looked: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.held, self.broken, self._told = held, broken or {}, looked
        self.refuses: DatapathError | None = None
        self.ended: dict[str, set[int]] = {}
        self.looked = 0

    @property
    def stale_sockets(self) -> Callable[[Serves], Stale]:
        return self._stale

    @property
    def end_sockets(self) -> Callable[[str, Collection[Connected]], int]:
        return self._end

    def _stale(self, serves: Serves) -> Stale:
        self.looked += 1
        self._told(self.looked)
        if self.refuses is not None:
            raise self.refuses
        found: Stale = {}
        for netns, cookie, frontend, backend in self.held:
            if not serves(frontend, backend):
                found.setdefault(netns, set()).add(Connected(cookie, Remote(b"1234", 53)))
        return found

    def _end(self, path: str, wanted: Collection[Connected]) -> int:
        assert wanted, "nobody enters a namespace for nothing"
        if path in self.broken:
            raise self.broken[path]
        self.ended.setdefault(path, set()).update(one.cookie for one in wanted)
        return len(wanted)


def engine_with(*history: Command) -> ListEngine:
    pods = (pod("web", netns_cookie=WEB), pod("client", ifindex=11, netns_cookie=CLIENT), pod("old", ifindex=12))
    return ListEngine(*pods, *history)


async def ended(kernel: Kernel, *history: Command) -> dict[str, set[int]]:
    """By path, the sockets that are ended by one look after these commands."""
    assert await StaleSockets(kernel).look(engine_with(*history))
    return kernel.ended


async def test_sockets_of_a_backend_that_left_are_ended_where_they_are() -> None:
    kernel = Kernel((WEB, 1, 1, 1), (CLIENT, 2, 1, 2), (OWN, 3, 1, 2), (77, 4, 1, 2), (WEB, 5, 9, 1))
    found = await ended(kernel, backends("10.0.0.1", "10.0.0.2"), backends("10.0.0.1"))
    assert found == {"": {3}, "/run/netns/client": {2}, "/run/netns/web": {5}}


async def test_a_service_that_is_deleted_has_no_backends() -> None:
    kernel = Kernel((WEB, 1, 1, 1))
    assert await ended(kernel, backends("10.0.0.1")) == {}
    assert await ended(kernel, backends("10.0.0.1"), DeleteServices(names=(DNS,))) == {"/run/netns/web": {1}}


async def test_a_backend_that_only_gets_no_new_ones_keeps_its_sockets() -> None:
    resting = SetBackendState(address="10.0.0.2", port=53, protocol=Protocol.UDP, state=BackendState.MAINTENANCE)
    kernel = Kernel((WEB, 1, 1, 1), (WEB, 2, 1, 2))
    ending = backends("10.0.0.1", "10.0.0.2", state=BackendState.TERMINATING)
    assert await ended(kernel, backends("10.0.0.1", "10.0.0.2"), resting, ending) == {}


async def test_sockets_of_which_nobody_knows_where_they_are_are_looked_for_everywhere() -> None:
    kernel = Kernel((ANYWHERE, 1, 9, 9), (CLIENT, 2, 9, 9))
    assert await ended(kernel) == {"": {1}, "/run/netns/web": {1}, "/run/netns/client": {1, 2}}


async def test_one_namespace_that_cannot_be_entered_does_not_keep_others_from_it() -> None:
    broken: dict[str, DatapathError] = {"": KernelRefused("x", 1), "/run/netns/web": NoNamespace("w", "gone")}
    kernel = Kernel(*((netns, 1, 9, 9) for netns in (OWN, WEB, CLIENT)), broken=broken)
    assert await ended(kernel) == {"/run/netns/client": {1}}


async def test_a_kernel_that_does_not_say_which_there_are_is_asked_again() -> None:
    kernel = Kernel((OWN, 1, 9, 9))
    kernel.refuses = KernelRefused("x", 1)
    assert await ended(kernel) == {}
    kernel.refuses = None
    assert await ended(kernel) == {"": {1}}


async def test_what_could_not_be_ended_is_ended_later_though_nothing_else_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stale, "_AGAIN_S", 0.001)
    kernel = Kernel((OWN, 1, 9, 9), broken={"": KernelRefused("end UDP sockets", 24)})
    engine = engine_with()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(StaleSockets(kernel).run, engine)
        with anyio.fail_after(5):
            while kernel.looked < 3:  # noqa: ASYNC110  # what looks rings no bell
                await anyio.sleep(0.001)
            kernel.broken.clear()
            while not kernel.ended:  # noqa: ASYNC110  # as above
                await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()
    assert kernel.ended == {"": {1}}


async def test_a_backend_that_came_while_sockets_were_looked_at_is_known() -> None:
    engine = engine_with(backends("10.0.0.1"))

    def looked(_: int) -> None:
        engine.execute(backends("10.0.0.1", "10.0.0.2"), actor="test")

    kernel = Kernel((WEB, 1, 1, 1), (WEB, 2, 1, 2), looked=looked)
    assert await StaleSockets(kernel).look(engine)
    assert kernel.ended == {}


async def test_a_kernel_that_cannot_end_sockets_is_asked_once() -> None:
    kernel = Kernel((OWN, 1, 9, 9), broken={"": NotSupported(95)})
    with anyio.fail_after(5):
        await StaleSockets(kernel).run(engine_with())
    assert kernel.looked == 1


async def test_it_is_looked_at_the_start_and_when_backends_have_changed_and_the_kernel_knows() -> None:
    looks, looked = anyio.create_memory_object_stream[int](16)
    kernel, engine = Kernel(looked=lambda count: anyio.from_thread.run_sync(looks.send_nowait, count)), engine_with()
    stale_sockets = StaleSockets(kernel)

    def execute(command: Command) -> None:
        before = engine.world
        done = engine.execute(command, actor="test")
        stale_sockets.turn(Turn(before, engine.world, done.events, {}))

    async with looked, anyio.create_task_group() as tasks:
        tasks.start_soon(stale_sockets.run, engine)
        with anyio.fail_after(5):
            assert await looked.receive() == 1
            execute(backends("10.0.0.1"))
            assert await looked.receive() == 2
        execute(pod("other", ifindex=13))
        engine.lag = True
        execute(backends())
        await anyio.wait_all_tasks_blocked()
        assert kernel.looked == 2, "neither for pods, nor before the kernel sends nobody to the backend"
        engine.catch_up()
        with anyio.fail_after(5):
            assert await looked.receive() == 3
        tasks.cancel_scope.cancel()
    looks.close()
