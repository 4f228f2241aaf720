"""The whole datapath of a node as one object: opened, adopted or made; driven; removed.

Every object is pinned as soon as it exists, in an order in which each step leaves something that works or something
that the next `open` recognises: maps, then programs, then links. What a process that was killed left half-done is
finished or removed here; traffic keeps running through whatever is attached meanwhile.
"""

import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from datapath.kernel import load, pin, syscall
from datapath.kernel.compile import Compiled, compiled
from datapath.kernel.links import Links
from datapath.kernel.maps import KernelMap
from datapath.kernel.peers import Peers
from datapath.kernel.pin import Pins
from datapath.kernel.programs import PROGRAMS, Place
from datapath.kernel.ringbuf import Ring
from datapath.kernel.state import State
from datapath.maps import catalog, lb, metrics, state
from datapath.maps.metrics import MetricsDirection, MetricsKey, MetricsValue
from datapath.maps.sizing import FLEXIBLE
from datapath.maps.spec import MapSpec
from datapath.maps.state import MonitorFlags, StateSlot

DEFAULT_ROOT: Final = Path("/sys/fs/bpf/cplane")


class KernelDatapath:
    """Maps, programs and links under one pin folder.

    `maps` has every map of the catalogue by name; `ring` its records; `numbers` the state of the node; `peers` the
    sockets that were sent to backends. Devices and programs may be changed from several threads at once, one of which
    waits then.
    """

    def __init__(
        self, pins: Pins, cache: Path, maps: Mapping[str, KernelMap], programs: Mapping[str, int], digest: str
    ) -> None:
        self._pins, self._cache, self._programs, self._links = pins, cache, programs, Links(pins)
        self._changing = threading.Lock()
        self.maps, self.digest = maps, digest
        events = maps[catalog.EVENTS.name]
        self.numbers = State(maps[state.SPEC.name])
        self.peers = Peers(maps[lb.PEERS.name])
        self.ring = Ring(events.fd, events.spec.max_entries)

    @classmethod
    def open(
        cls,
        root: Path = DEFAULT_ROOT,
        *,
        cache: Path,
        sizes: Mapping[str, int] | None = None,
        config: Mapping[str, int] | None = None,
    ) -> "KernelDatapath":
        """Everything exists and runs the programs of `config` (names of source.defines), on old devices too.

        `cache` keeps compiled programs. `sizes` (map name → entries, or bytes of the ring) replaces the catalogue's;
        maps of sizing.FLEXIBLE that are there already stay as large as they are.
        Raises ForeignMap, NoBpffs, CompilerMissing, CompileFailed, ProgramRefused, KernelRefused.
        """
        code = compiled(cache, config or {})
        pins = Pins.open(root)
        maps: dict[str, KernelMap] = {}
        programs: dict[str, int] = {}
        try:
            for spec in sized(sizes or {}):
                maps[spec.name] = KernelMap.open(spec, pins, any_size=spec.name in FLEXIBLE)
            programs.update(_programs(pins, code, maps))
            opened = cls(pins, cache, maps, programs, code.digest)
        except BaseException:
            for made in maps.values():
                made.close()
            for fd in programs.values():
                os.close(fd)
            raise
        opened.refresh()
        return opened

    def refresh(self) -> None:
        """Every live link runs our programs; programs that none runs are gone."""
        with self._changing:
            self._refresh()

    def reconfigure(self, config: Mapping[str, int]) -> None:
        """Every device runs the programs of `config`, from one packet to the next, and so do devices to come.

        Raises CompilerMissing, CompileFailed and ProgramRefused, upon which all is as before, and KernelRefused.
        """
        code = compiled(self._cache, config)
        if code.digest == self.digest:
            return
        programs = _programs(self._pins, code, self.maps)
        with self._changing:
            before, self._programs, self.digest = self._programs, programs, code.digest
            for fd in before.values():
                os.close(fd)  # what links run stays until they run the others
            self._refresh()

    def _refresh(self) -> None:
        self._links.update(self._programs)
        for digest, name, path in list(self._pins.programs()):
            if digest != self.digest or name not in PROGRAMS:
                pin.unpin(path)

    def program(self, name: str) -> int:
        """The descriptor of a program, for BPF_PROG_TEST_RUN and for queries."""
        return self._programs[name]

    def attach(self, ifindex: int) -> None:
        """A pod's device of the caller's namespace obeys us. Idempotent. Raises KernelRefused (ENODEV) without it."""
        with self._changing:
            self._links.attach(ifindex, self._programs)

    def detach(self, ifindex: int) -> None:
        """The device obeys us no more. Idempotent, also without the device."""
        with self._changing:
            self._links.detach(ifindex)

    def attach_cgroup(self, folder: Path, netns_cookie: int) -> None:
        """Sockets of the processes in this folder of a cgroup2, and of no other, are served. Idempotent.

        The network namespace with this cookie is the node's own from now on.
        """
        self.numbers.set_netns(netns_cookie)
        with self._changing:
            self._links.attach_cgroup(folder, self._programs)

    def detach_cgroup(self) -> None:
        """No sockets are served. Idempotent."""
        with self._changing:
            self._links.detach_cgroup()

    def attach_netdev(self, ifindex: int) -> None:
        """A device by which the node reaches the outside is served. Idempotent."""
        with self._changing:
            self._links.attach(ifindex, self._programs, Place.NETDEV)

    def detach_netdev(self, ifindex: int) -> None:
        """It is served no more. Idempotent, also without the device."""
        with self._changing:
            self._links.detach(ifindex, Place.NETDEV)

    def attach_xdp(self, ifindex: int) -> None:
        """What only passes through the node is taken before there are socket buffers. Idempotent.

        Raises KernelRefused where the device's driver has no XDP.
        """
        with self._changing:
            self._links.attach(ifindex, self._programs, Place.XDP)

    def detach_xdp(self, ifindex: int) -> None:
        """It is taken later again. Idempotent, also without the device."""
        with self._changing:
            self._links.detach(ifindex, Place.XDP)

    def attach_proxy(self, ifindex: int) -> None:
        """Packets to pods that a proxy is to have come in again by this interface. Idempotent."""
        with self._changing:
            self._links.attach(ifindex, self._programs, Place.PROXY)
        self.numbers.set_proxy(ifindex)

    def attached_netdevs(self) -> set[int]:
        """The devices to the outside that are served, or that XDP runs on, as where we were killed before all did."""
        return self._links.attached(Place.NETDEV) | self._links.attached(Place.XDP)

    def attached(self) -> set[int]:
        """The devices that obey us."""
        return self._links.attached()

    def sweep(self) -> int:
        """Pins of devices that are gone are removed. Returns how many links there were."""
        return self._links.sweep()

    def publish(self, position: int) -> None:
        """All tables of the log position `position` are in the kernel."""
        self.numbers.publish(position)

    def set_position(self, position: int) -> None:
        """Records carry this log position from now on."""
        self.numbers.set_position(position)

    def bump_epoch(self) -> None:
        """Every connection is judged again at its next packet."""
        self.numbers.bump_epoch()

    def set_monitor(self, flags: MonitorFlags) -> None:
        """Programs emit these kinds of records from now on."""
        self.numbers.set_monitor(flags)

    @property
    def position(self) -> int:
        """The log position that records carry, also when an earlier process set it; 0: none yet."""
        return self.numbers[StateSlot.POSITION]

    @property
    def lost(self) -> int:
        """Records that found the ring buffer full since the maps were made."""
        return self.numbers.lost

    @property
    def debug_lost(self) -> int:
        """Debug records that found the ring buffer half full since the maps were made."""
        return self.numbers[StateSlot.DEBUG_LOST]

    def traffic(self) -> dict[MetricsKey, MetricsValue]:
        """What became of packets since the maps were made: those reasons and directions that there were."""
        counters = self.maps[metrics.SPEC.name]
        found = {}
        for reason in (metrics.REASON_FORWARDED, *metrics.DROP_REASONS):
            for direction in MetricsDirection:
                key = MetricsKey(reason, direction)
                counted = MetricsValue.total(counters.lookup(key.pack()) or b"")
                if counted.packets:
                    found[key] = counted
        return found

    def close(self) -> None:
        """This process holds nothing; the kernel goes on. Idempotent."""
        if not self.maps:
            return
        self.ring.close()
        self.numbers.close()
        self.peers.close()
        for opened in self.maps.values():
            opened.close()
        for fd in self._programs.values():
            os.close(fd)
        self.maps, self._programs = {}, {}


def sized(sizes: Mapping[str, int]) -> tuple[MapSpec, ...]:
    """The catalogue with other sizes. Raises KeyError for a map that it has not."""
    names = {spec.name for spec in catalog.SPECS}
    for name in sizes:
        if name not in names:
            raise KeyError(f"{name!r} is no map; there are {', '.join(sorted(names))}")
    return tuple(replace(spec, max_entries=sizes.get(spec.name, spec.max_entries)) for spec in catalog.SPECS)


def remove(root: Path = DEFAULT_ROOT) -> None:
    """Nothing of ours is left under `root`: devices run free, maps and programs are gone. Idempotent."""
    if not root.is_dir():
        return
    pins = Pins(root)
    if (root / "links").is_dir():
        links = Links(pins)
        for ifindex in {ifindex for ifindex, _, _ in pins.links()}:
            links.detach(ifindex)
            links.detach(ifindex, Place.NETDEV)
            links.detach(ifindex, Place.XDP)
            links.detach(ifindex, Place.PROXY)
        links.detach_cgroup()
    pins.remove()


def _programs(pins: Pins, code: Compiled, maps: Mapping[str, KernelMap]) -> dict[str, int]:
    """Descriptors of the pinned programs of this compilation over these very maps; loaded where they are missing."""
    fds = {opened.spec.slot: opened.fd for opened in maps.values()}
    ids = frozenset(opened.id for opened in maps.values())
    programs: dict[str, int] = {}
    try:
        for name, instructions in code.programs.items():
            path = pins.program(code.digest, name)
            fd = _adopted(path, ids)
            if fd is None:
                fd = load.load(name, instructions, fds)
                pin.pin(fd, path)
            programs[name] = fd
    except BaseException:
        for fd in programs.values():
            os.close(fd)
        raise
    return programs


def _adopted(path: Path, map_ids: frozenset[int]) -> int | None:
    try:
        fd = syscall.obj_get(str(path))
    except syscall.KernelObjectMissing:
        return None
    # Maps may have been removed and made again since: a program over the old ones is of no use.
    if syscall.prog_map_ids(fd) <= map_ids:
        return fd
    os.close(fd)
    return None
