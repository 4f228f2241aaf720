"""Our programs on devices as a table: a device is in it, or it is not."""

from collections.abc import Collection, Mapping

from datapath.kernel.datapath import KernelDatapath
from datapath.maps.endpoints import DeviceKey


class ProgramTarget:
    """Devices of the caller's network namespace that obey us. The value says nothing more: None."""

    def __init__(self, datapath: KernelDatapath) -> None:
        self._datapath = datapath

    def dump(self) -> dict[DeviceKey, None]:
        """The devices on which all programs run."""
        return {DeviceKey(ifindex): None for ifindex in sorted(self._datapath.attached())}

    def upsert(self, entries: Mapping[DeviceKey, None]) -> None:
        """Every device obeys us when this returns. Idempotent. Raises KernelRefused (ENODEV) for one that is gone."""
        for key in entries:
            self._datapath.attach(key.ifindex)

    def delete(self, keys: Collection[DeviceKey]) -> None:
        """None of the devices obeys us when this returns. Idempotent, also for devices that are gone."""
        for key in keys:
            self._datapath.detach(key.ifindex)
