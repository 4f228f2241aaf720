"""Every implementation of a port, held to its contract; those in the kernel need root."""

import os
import socket
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from cplane.eventlog.memory import MemoryLog
from cplane.eventlog.postgres import PostgresLog
from cplane.eventlog.store import SqliteLog
from datapath.kernel import load, syscall
from datapath.kernel.datapath import KernelDatapath, remove
from datapath.kernel.maps import KernelMap
from datapath.kernel.pin import Pins
from datapath.kernel.syscall import AttachPoint
from datapath.maps import endpoints, ipcache, policy
from datapath.maps.endpoints import DeviceKey
from datapath.maps.ipcache import FAMILY_V4, IpcacheInfo, IpcacheKey
from datapath.maps.memory import MemoryMap
from datapath.maps.policy import PolicyEntry, PolicyKey
from datapath.targets.map import MapTarget
from datapath.targets.memory import AttachedPrograms
from datapath.targets.program import ProgramTarget
from tests.contracts.bpf_map import MapContract
from tests.contracts.event_log import EventLogContract
from tests.contracts.target import Case, TargetContract
from tests.support.clock import TickingClock
from tests.support.kernel import SIZES
from tests.support.netns import namespace
from tests.support.postgres import NEEDS_POSTGRES

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: BPF objects are made")
ROOM = 16
PASS = bytes.fromhex("b7000000ffffffff9500000000000000")  # r0 = TCX_NEXT; exit
numbers = count()


class TestMemoryLog(EventLogContract):
    @asynccontextmanager
    async def make(self, folder):
        yield MemoryLog(TickingClock())


class TestSqliteLog(EventLogContract):
    def make(self, folder):
        return SqliteLog.open(str(folder / "log"), TickingClock())


@NEEDS_POSTGRES
class TestPostgresLog(EventLogContract):
    @pytest.fixture(autouse=True)
    def _postgres(self, postgres):
        self.postgres = postgres

    @asynccontextmanager
    async def make(self, folder):
        async with PostgresLog.open(self.postgres.shared(), TickingClock(), node=f"n{next(numbers)}") as log:
            yield log


class TestMemoryMap(MapContract):
    def make(self, spec):
        return nullcontext(MemoryMap(spec))


@pytest.mark.root
@NEEDS_ROOT
class TestKernelMap(MapContract):
    @contextmanager
    def make(self, spec):
        made = KernelMap.create(spec)
        try:
            yield made
        finally:
            made.close()


def policies(number):
    return {PolicyKey(5, peer, 0, 6, 80, 24): PolicyEntry(False, peer, 24) for peer in range(1, number + 1)}


def prefixes(number):
    return {
        IpcacheKey(FAMILY_V4, bytes((10, block)).ljust(16, b"\0"), 16): IpcacheInfo(300 + block)
        for block in range(number)
    }


def map_case(over, again, strangers, *, rows, types) -> Case:
    """A case of rows in a map that has room for ROOM of them."""
    entries = rows(5)
    changed = dict(zip(entries, reversed(entries.values()), strict=True))
    return Case(
        target=MapTarget(over, *types),
        entries=entries,
        changed=dict(list(changed.items())[:2]),
        again=lambda: MapTarget(again(), *types),
        strangers=strangers,
        overflow=rows(ROOM + 4),
    )


class OverMemory(TargetContract):
    spec, rows, types = policy.SPEC, staticmethod(policies), (PolicyKey, PolicyEntry)

    @contextmanager
    def make(self):
        over = MemoryMap(replace(self.spec, max_entries=ROOM))
        other = MemoryMap(endpoints.DEVICE_SPEC)
        other.update_batch([DeviceKey(7).pack()], [bytes(endpoints.DEVICE_VALUE.size)])
        yield map_case(over, lambda: over, other.dump, rows=self.rows, types=self.types)


class TestPoliciesInMemory(OverMemory):
    pass


class TestPrefixesInMemory(OverMemory):
    spec, rows, types = ipcache.SPEC, staticmethod(prefixes), (IpcacheKey, IpcacheInfo)


class OverKernel(TargetContract):
    spec, rows, types = policy.SPEC, staticmethod(policies), (PolicyKey, PolicyEntry)

    @contextmanager
    def make(self):
        root = Path(f"/sys/fs/bpf/cptcon{os.getpid()}-{next(numbers)}")
        spec = replace(self.spec, max_entries=ROOM)
        with ExitStack() as stack:
            stack.callback(remove, root)
            pins = Pins.open(root)

            def opened(spec=spec):
                found = KernelMap.open(spec, pins)
                stack.callback(found.close)
                return found

            other = opened(replace(endpoints.DEVICE_SPEC, max_entries=ROOM))
            other.update_batch([DeviceKey(7).pack()], [bytes(endpoints.DEVICE_VALUE.size)])
            yield map_case(opened(), opened, other.dump, rows=self.rows, types=self.types)


@pytest.mark.root
@NEEDS_ROOT
class TestPoliciesInTheKernel(OverKernel):
    pass


@pytest.mark.root
@NEEDS_ROOT
class TestPrefixesInTheKernel(OverKernel):
    spec, rows, types = ipcache.SPEC, staticmethod(prefixes), (IpcacheKey, IpcacheInfo)


def devices_case(target, indices, again, strangers) -> Case:
    """A case of devices, which have programs or have not."""
    entries = {DeviceKey(index): None for index in indices}
    return Case(target=target, entries=entries, changed={}, again=again, strangers=strangers, overflow={})


class TestProgramsInMemory(TargetContract):
    @contextmanager
    def make(self):
        target, other = AttachedPrograms(), AttachedPrograms()
        other.upsert({DeviceKey(9): None})
        yield devices_case(target, range(2, 6), lambda: target, other.dump)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


class There:
    """A target whose devices are in a namespace."""

    def __init__(self, home, target) -> None:
        self.home, self.target = home, target

    def dump(self):
        return self.home.run(self.target.dump)

    def upsert(self, entries):
        self.home.run(lambda: self.target.upsert(entries))

    def delete(self, keys):
        self.home.run(lambda: self.target.delete(keys))


@pytest.mark.root
@NEEDS_ROOT
@pytest.mark.slow
class TestProgramsInTheKernel(TargetContract):
    @pytest.fixture(autouse=True)
    def _programs(self, compiled):
        self.cache = compiled

    @contextmanager
    def make(self):
        root = Path(f"/sys/fs/bpf/cptcon{os.getpid()}-{next(numbers)}")
        with ExitStack() as stack:
            home = stack.enter_context(namespace())
            stack.callback(remove, root)
            for number in (0, 2):
                home.ip("link", "add", f"cptd{number}", "type", "veth", "peer", "name", f"cptd{number + 1}")
            indices = home.run(lambda: [socket.if_nametoindex(f"cptd{number}") for number in range(4)])

            def again():
                datapath = KernelDatapath.open(root, cache=self.cache, sizes=SIZES)
                stack.callback(datapath.close)
                return There(home, ProgramTarget(datapath))

            # Somebody else's program runs on the first device, and is held by a link that we know nothing of.
            theirs = load.load("cpt_theirs", PASS, {})
            stack.callback(os.close, theirs)
            number = syscall.prog_info(theirs).id
            points = (AttachPoint.TCX_INGRESS, AttachPoint.TCX_EGRESS)
            for point in points:
                stack.callback(
                    os.close, home.run(lambda point=point: syscall.link_create(theirs, indices[0], point, "a device"))
                )

            def strangers():
                return [
                    number in home.run(lambda point=point: syscall.prog_query(indices[0], point)) for point in points
                ]

            assert strangers() == [True, True]
            yield devices_case(again(), indices, again, strangers)
