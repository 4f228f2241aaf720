"""The devices by which clients outside reach services: found by name, served, followed as they come, change and go."""

from typing import Final

from cplane.api.ports import ServedDevice
from cplane.config.model import LbConfig
from cplane.telemetry.log import line, logger
from datapath.errors import DatapathError
from datapath.kernel.datapath import KernelDatapath
from datapath.maps import lb
from datapath.maps.lb import NetdevFlags, NetdevKey
from datapath.netlink import devices, xdp
from datapath.netlink.devices import Netdev
from datapath.targets.map import MapTarget

log = logger("datapath")

_ABSENT: Final = "there is no such Ethernet device"
_VETH: Final = "it is one end of a veth pair, and can send only while the other end runs an XDP program or has GRO on"
_OFF: Final = "lb.acceleration is disabled"


class Netdevs:
    """Those that the configuration names. Everything here blocks; one thread at a time."""

    def __init__(self, config: LbConfig, opened: KernelDatapath) -> None:
        self._config, self._opened = config, opened
        self._rows = MapTarget(opened.maps[lb.NETDEVS.name], NetdevKey, lb.Netdev)
        self._served: dict[str, ServedDevice] = {}

    @property
    def served(self) -> tuple[ServedDevice, ...]:
        """How the last round has found them."""
        return tuple(self._served.values())

    def follow(self) -> None:
        """Every device that is there is served with the addresses that it has now, and no other one.

        Raises DatapathError: the others are served all the same.
        """
        failed: DatapathError | None = None
        found: set[int] = set()
        for name in self._config.devices:
            try:
                now = self._serve(name, found)
            except DatapathError as error:
                failed, now = error, ServedDevice(name, detail=str(error))
            self._tell(now)
        for key in self._rows.dump().keys() | {NetdevKey(one) for one in self._opened.attached_netdevs()}:
            if key.ifindex not in found:
                self._opened.detach_xdp(key.ifindex)
                self._opened.detach_netdev(key.ifindex)
                self._rows.delete([key])
        if failed is not None:
            raise failed

    def _serve(self, name: str, found: set[int]) -> ServedDevice:
        device = devices.find(name)
        if device is None:
            return ServedDevice(name, detail=_ABSENT)
        found.add(device.ifindex)
        lacks, flags = self._accelerate(device), NetdevFlags(0)
        mute = ""
        if not lacks and xdp.takes_frames(device.ifindex):
            flags = NetdevFlags.REDIRECT
        elif not lacks and device.kind == "veth":
            flags, mute = NetdevFlags.MUTE, _VETH
        # Programs on tcx must know the node's addresses there; those of XDP leave alone what they do not know.
        row = lb.Netdev(device.ipv4, device.ipv6, device.mac, flags)
        self._rows.upsert({NetdevKey(device.ifindex): row})
        self._opened.attach_netdev(device.ifindex)
        return ServedDevice(name, present=True, xdp=not lacks, detail=lacks or mute)

    def _accelerate(self, device: Netdev) -> str:
        """Why packets are not taken before there are socket buffers; empty: they are."""
        wanted = self._config.acceleration
        if wanted != "native":
            lacks = _OFF if wanted == "disabled" else _VETH if device.kind == "veth" else ""
            if lacks:
                self._opened.detach_xdp(device.ifindex)
                return lacks
        try:
            # On a veth device also while the other end is not ready for it, which is what that waits for itself.
            self._opened.attach_xdp(device.ifindex)
        except DatapathError as error:
            if wanted == "native":
                raise
            return str(error)
        return ""

    def _tell(self, now: ServedDevice) -> None:
        """A line in the log, if it is news."""
        before, self._served[now.name] = self._served.get(now.name), now
        if now == before:
            return
        if now.present:
            log.info(line("datapath", kind="device.served", device=now.name, detail=now.detail or "with XDP"))
        else:
            log.warning(line("datapath", kind="device.not_served", device=now.name, detail=now.detail))
