"""The datapath that an agent drives: the kernel's, or one in memory; either way the same tables and records."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from cplane.agent.netdevs import Netdevs
from cplane.agent.targets import OwnDevices, RememberedDevices, TranslatedTarget
from cplane.api.cni.ports import Plumbing
from cplane.api.ports import Answer, Check, Packet, ServedDevice
from cplane.config.model import AgentConfig
from cplane.domain import maglev
from cplane.domain.policy.lookup import lookup
from cplane.domain.policy.mapstate import MapKey
from cplane.domain.service import ServiceOptions
from cplane.domain.verdict import Direction, DropReason
from cplane.engine.reconcile import AnyTarget, nobody
from cplane.errors import Unavailable
from cplane.projections import services
from cplane.projections.tables import CAPACITY, DEVICES, IPCACHE, LXC, MAPS, POLICY, PROGRAMS
from cplane.proxy import checks
from cplane.telemetry.clock import SystemClock
from datapath.errors import DatapathError
from datapath.gc import conntrack, sockets
from datapath.gc.sockets import Serves, Stale
from datapath.kernel import probes
from datapath.kernel.datapath import KernelDatapath
from datapath.maps import conntrack as conntrack_maps
from datapath.maps import endpoints, ipcache, lb, policy, sizing
from datapath.maps.endpoints import DeviceInfo, DeviceKey, EndpointInfo, EndpointKey
from datapath.maps.ipcache import IpcacheInfo, IpcacheKey
from datapath.maps.lb import (
    BackendEntry,
    BackendKey,
    MaglevChunk,
    MaglevKey,
    MemberKey,
    Present,
    RangeKey,
    ServiceEntry,
    ServiceKey,
    SkipKey,
    SlotKey,
)
from datapath.maps.metrics import MetricsKey, MetricsValue
from datapath.maps.policy import PolicyEntry, PolicyKey
from datapath.maps.state import MonitorFlags, StateSlot
from datapath.netlink.memory import MemoryPlumbing
from datapath.netlink.netns import own_cookie
from datapath.netlink.plumbing import VethPlumbing
from datapath.netlink.sockets import Connected, end_datagrams
from datapath.source.defines import DEFAULTS
from datapath.targets.map import ByteMap, MapTarget
from datapath.targets.memory import Judgement, MemoryDatapath
from datapath.targets.memory import Packet as DatapathPacket
from datapath.targets.program import ProgramTarget

_DSR_DISPATCH: Final = {"opt": 1, "ipip": 2, "geneve": 3}  # DSR_* of bpf/lib/dsr.h
_TRACKED: Final = (conntrack_maps.SPEC4, conntrack_maps.SPEC6)
_MONITOR: Final = {
    "medium": MonitorFlags.ALL,
    "drops": MonitorFlags.DROP,
    "off": MonitorFlags(0),
}


class DatapathUnavailable(Unavailable):
    """The kernel cannot be driven."""

    code = "datapath.unavailable"


class Debugging:
    """Whether the kernel's programs tell each of their steps: others run then, so that these cost nothing."""

    def __init__(self, opened: KernelDatapath, programs: Callable[[bool], Mapping[str, int]], *, on: bool) -> None:
        self._opened, self._programs, self.is_on = opened, programs, on

    def switch(self, *, on: bool) -> None:
        """They do, or do not any more. Blocks, for seconds where programs are compiled. Raises DatapathUnavailable."""
        try:
            self._opened.reconfigure(self._programs(on))
        except DatapathError as error:
            raise DatapathUnavailable(str(error)) from error
        self.is_on = on

    def lost(self) -> int:
        """Steps that there was no room for in the kernel's ring, since the maps were made."""
        return self._opened.debug_lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Datapath:
    """What the agent needs of a datapath. Every function may be called from a worker thread."""

    targets: dict[str, AnyTarget]
    capacity: Mapping[str, int]  # entries that each table has room for
    publish: Callable[[int], None]
    rejudge: Callable[[], None]  # every connection, at its next packet
    position: Callable[[], int]  # what was published last, also by an earlier agent; 0: nothing
    drain: Callable[[int], npt.NDArray[np.void]]
    lost: Callable[[], int]
    traffic: Callable[[], Mapping[MetricsKey, MetricsValue]]  # what became of packets, since the maps were made
    plumbing: Plumbing
    prepare_node: Callable[[Sequence[str], Sequence[str]], None]
    local_addresses: Callable[[], tuple[str, ...]]
    follow_devices: Callable[[], None]  # to the outside, as they come, change and go
    served_devices: Callable[[], tuple[ServedDevice, ...]]
    collect: Callable[[], None]  # what time makes superfluous
    close: Callable[[], None]
    probe: Callable[[Packet], Answer] | None
    debugging: Debugging | None  # None: there are no programs
    prepare_proxies: Callable[[], None] | None = None  # before the first redirect; None: nothing can be redirected
    netns_cookie: int = 0  # of the node's network namespace, where sockets are served
    stale_sockets: Callable[[Serves], Stale] = lambda _: {}
    end_sockets: Callable[[str, Collection[Connected]], int] = lambda *_: 0  # raises DatapathError
    connected: Callable[[Mapping[int, Collection[bytes]]], Collection[tuple[int, bytes]]] = lambda _: ()
    """Which of these peers (endpoint → addresses) have an open connection. Raises DatapathError."""


def open_datapath(
    config: AgentConfig, options: ServiceOptions, name_of: Callable[[int], str], clock: SystemClock
) -> Datapath:
    """The datapath of the configuration, for services with these options; `name_of` is what the log calls an interface.

    Raises DatapathUnavailable.
    """
    if config.datapath == "memory":
        return _memory(clock)
    try:
        return _kernel(config, options, name_of)
    except DatapathError as error:
        raise DatapathUnavailable(f"{error} (`cplane doctor` shows what this machine lacks)") from error


def _kernel(config: AgentConfig, options: ServiceOptions, name_of: Callable[[int], str]) -> Datapath:
    def programs(debug: bool) -> Mapping[str, int]:  # noqa: FBT001  # there is nothing else to say
        return _programs(config, options, debug=debug)

    opened = KernelDatapath.open(
        Path(config.bpf_root),
        cache=Path(config.state_dir) / "programs",
        sizes=_sizes(config),
        config=programs(config.debug),
    )
    opened.set_monitor(_MONITOR[config.hubble.monitor])
    _serve_sockets(config, opened)
    netdevs = Netdevs(config.lb, opened)
    netdevs.follow()
    maps = opened.maps
    plumbing = VethPlumbing(config.node_name)
    devices = RememberedDevices(MapTarget(maps[endpoints.DEVICE_SPEC.name], DeviceKey, DeviceInfo))
    targets: dict[str, AnyTarget] = {
        POLICY: MapTarget(maps[policy.SPEC.name], PolicyKey, PolicyEntry),
        DEVICES: devices,
        PROGRAMS: OwnDevices(ProgramTarget(opened), name_of),
        IPCACHE: MapTarget(maps[ipcache.SPEC.name], IpcacheKey, IpcacheInfo),
        LXC: MapTarget(maps[endpoints.ADDRESS_SPEC.name], EndpointKey, EndpointInfo),
        **_service_targets(maps),
    }
    return Datapath(
        targets={name: TranslatedTarget(name, target) for name, target in targets.items()},
        capacity={name: maps[spec.name].spec.max_entries for name, spec in MAPS.items()},
        publish=opened.publish,
        rejudge=opened.bump_epoch,
        position=lambda: opened.position,
        drain=opened.ring.drain,
        lost=lambda: opened.lost,
        traffic=opened.traffic,
        plumbing=plumbing,
        prepare_node=plumbing.prepare_node,
        local_addresses=plumbing.local_addresses,
        follow_devices=netdevs.follow,
        served_devices=lambda: netdevs.served,
        collect=lambda: _collect(opened, devices),
        close=opened.close,
        probe=None,
        debugging=Debugging(opened, programs, on=config.debug),
        prepare_proxies=lambda: opened.attach_proxy(plumbing.prepare_proxies()),
        netns_cookie=opened.numbers[StateSlot.NETNS],
        stale_sockets=lambda serves: sockets.stale(opened.peers, maps[lb.SOCKS.name], serves),
        end_sockets=end_datagrams,
        connected=lambda wanted: _connected(opened, wanted),
    )


def _collect(opened: KernelDatapath, devices: RememberedDevices) -> None:
    """Connections and pins that nobody has any more are gone. Raises DatapathError."""
    gone = devices.gone()
    for spec in (*_TRACKED, lb.FLOWS):
        conntrack.sweep(opened.maps[spec.name], conntrack.now_s())
    if gone:
        for spec in _TRACKED:
            conntrack.forget(opened.maps[spec.name], gone)
    opened.sweep()


def _connected(opened: KernelDatapath, wanted: Mapping[int, Collection[bytes]]) -> Collection[tuple[int, bytes]]:
    tracked = (opened.maps[spec.name] for spec in _TRACKED)
    return set().union(*(conntrack.peers_of(one, conntrack.now_s(), wanted) for one in tracked))


def _serve_sockets(config: AgentConfig, opened: KernelDatapath) -> None:
    """Sockets of the configured cgroup reach services. Raises DatapathUnavailable where there is no such cgroup."""
    if not config.lb.cgroup:
        opened.detach_cgroup()
        return
    folder: Path | None = Path(config.lb.cgroup)
    if config.lb.cgroup == "auto":
        folder = probes.cgroup2_mount(Path("/proc/self/mounts").read_text())
    if folder is None:
        raise DatapathUnavailable("lb.cgroup: no cgroup2 is mounted; mount -t cgroup2 none /sys/fs/cgroup/unified")
    try:
        opened.attach_cgroup(folder, own_cookie())
    except OSError as error:
        raise DatapathUnavailable(f"lb.cgroup: {folder}: {error.strerror or error}") from error


def _service_targets(maps: Mapping[str, ByteMap]) -> dict[str, AnyTarget]:
    return {
        services.BACKENDS: MapTarget(maps[lb.BACKENDS.name], BackendKey, BackendEntry),
        services.SLOTS: MapTarget(maps[lb.SLOTS.name], SlotKey, BackendEntry),
        services.MEMBERS: MapTarget(maps[lb.MEMBERS.name], MemberKey, Present),
        services.SKIPS: MapTarget(maps[lb.SKIPS.name], SkipKey, Present),
        services.RANGES: MapTarget(maps[lb.RANGES.name], RangeKey, Present),
        services.MAGLEV: MapTarget(maps[lb.MAGLEV.name], MaglevKey, MaglevChunk),
        services.SERVICES: MapTarget(maps[lb.SERVICES.name], ServiceKey, ServiceEntry),
    }


def _memory(clock: SystemClock) -> Datapath:
    opened = MemoryDatapath(_look_up, clock.boot_ns)
    plumbing = MemoryPlumbing()

    def probe(packet: Packet) -> Answer:
        asked = DatapathPacket(
            packet.source, packet.destination, packet.protocol, packet.source_port, packet.destination_port
        )
        outcome = opened.judge(asked)
        if not outcome.reason:
            return Answer(forwarded=True)
        whose = "the sender's egress policy" if outcome.egress else "the receiver's ingress policy"
        return Answer(False, outcome.reason, DropReason(outcome.reason).name, whose)

    return Datapath(
        targets={
            POLICY: TranslatedTarget(POLICY, opened.policy),
            DEVICES: TranslatedTarget(DEVICES, opened.devices),
            PROGRAMS: TranslatedTarget(PROGRAMS, opened.programs),
            IPCACHE: TranslatedTarget(IPCACHE, opened.ipcache),
            LXC: TranslatedTarget(LXC, opened.lxc),
            **{name: TranslatedTarget(name, target) for name, target in _service_targets(opened.services).items()},
        },
        capacity=CAPACITY,
        publish=opened.publish,
        rejudge=nobody,  # it judges every packet
        position=lambda: 0,  # nothing is left of an earlier one
        drain=opened.drain,
        lost=lambda: opened.lost,
        traffic=opened.traffic,
        plumbing=plumbing,
        prepare_node=plumbing.prepare_node,
        local_addresses=plumbing.local_addresses,
        follow_devices=lambda: None,
        served_devices=lambda: (),
        collect=lambda: None,
        close=lambda: None,
        probe=probe,
        debugging=None,
    )


def _sizes(config: AgentConfig) -> dict[str, int]:
    """Entries of maps, where they are not the usual ones."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
    wanted = config.bpf
    ratio = wanted.map_dynamic_size_ratio
    return sizing.sizes(memory, ratio=ratio, conntrack_max=wanted.ct_max, services_max=wanted.lb_map_max)


def _programs(config: AgentConfig, options: ServiceOptions, *, debug: bool) -> dict[str, int]:
    """The settings that programs are compiled with, where they are not the usual ones."""
    seed = maglev.parse_seed(options.maglev_seed)
    wanted = {
        "debug": int(debug),
        "sock_hostns_only": int(config.lb.hostns_only),
        "lb": int(bool(config.lb.devices)),
        "dsr_dispatch": _DSR_DISPATCH[config.lb.dsr_dispatch],
        "maglev_size": options.maglev_size,
        "maglev_seed4": seed.jhash0,
        "maglev_seed6": seed.jhash1,
    }
    return {name: value for name, value in wanted.items() if value != DEFAULTS[name]}


def _look_up(
    entry: Callable[[PolicyKey], PolicyEntry | None],
    policy_id: int,
    identity: int,
    direction: int,
    protocol: int,
    port: int,
) -> Judgement:
    """The reference lookup over the rows of one policy."""

    def get(key: MapKey) -> PolicyEntry | None:
        return entry(PolicyKey(policy_id, *key))

    decided = lookup(get, identity, Direction(direction), protocol, port)
    found = get(decided.key) if decided.key is not None else None
    if decided.proxied:  # there is none here, so what it would have to judge is dropped
        decided = decided._replace(reason=DropReason.PROXY_REDIRECTION_NOT_SUPPORTED_FOR_PROTOCOL)
    return Judgement(int(decided.reason or 0), int(decided.match), found.cookie if found else 0, decided.audited)


def doctor() -> Sequence[Check]:
    """What this machine has and lacks."""
    return (*probes.probe(), checks.envoy())
