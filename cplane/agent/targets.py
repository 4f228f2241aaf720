"""Targets as the engine wants them: its errors, and programs on our own devices only."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Generic, TypeVar

from cplane.engine.ports import NoRoom, Target
from cplane.engine.reconcile import difference
from cplane.errors import Unavailable
from cplane.telemetry.log import line, logger
from datapath import errors as datapath_errors
from datapath.errors import DatapathError
from datapath.maps.endpoints import DeviceInfo, DeviceKey
from datapath.netlink import rtnl

K = TypeVar("K")
V = TypeVar("V")

log = logger("datapath")


class Refused(Unavailable):
    """The kernel did not take what a table should contain."""

    code = "datapath.refused"


@contextmanager
def _translated(table: str) -> Iterator[None]:
    try:
        yield
    except datapath_errors.NoRoom as error:
        raise NoRoom(f"table {table!r}: {error}") from error
    except DatapathError as error:
        raise Refused(f"table {table!r}: {error}") from error


class TranslatedTarget(Generic[K, V]):
    """A target of the datapath library, whose errors are the control plane's."""

    def __init__(self, name: str, target: Target[K, V]) -> None:
        self._name, self._target = name, target

    def dump(self) -> Mapping[K, V]:
        """What is there now."""
        with _translated(self._name):
            return self._target.dump()

    def compare(self, desired: Mapping[K, V]) -> tuple[Mapping[K, V], Mapping[K, V]]:
        """The rows that are there and should not be so, and those that should be there and are not."""
        with _translated(self._name):
            found = difference(desired, self._target)
        return found.before, found.after

    def upsert(self, entries: Mapping[K, V]) -> None:
        """Every entry is there."""
        with _translated(self._name):
            self._target.upsert(entries)

    def delete(self, keys: Collection[K]) -> None:
        """None of the keys is there."""
        with _translated(self._name):
            self._target.delete(keys)


class OwnDevices:
    """Programs on pods' devices.

    The log remembers numbers of interfaces, and after a reboot such a number may be a stranger's. So a device is
    taken for ours only while it has the name that the log knows with the number; what is gone needs no program.
    """

    def __init__(self, target: Target[DeviceKey, None], name_of: Callable[[int], str]) -> None:
        self._target, self._name_of = target, name_of

    def dump(self) -> Mapping[DeviceKey, None]:
        """The devices that have our programs, and those that cannot have them any more."""
        return self._target.dump()

    def upsert(self, entries: Mapping[DeviceKey, None]) -> None:
        """Every device that is there and ours has the programs. Raises DatapathError, also where that is not known."""
        self._target.upsert({key: None for key in entries if self._is_ours(key.ifindex)})

    def delete(self, keys: Collection[DeviceKey]) -> None:
        """None of the devices has our programs."""
        self._target.delete(keys)

    def _is_ours(self, ifindex: int) -> bool:
        expected, found = self._name_of(ifindex), rtnl.name_of(ifindex)
        if found == expected:
            return True
        log.warning(
            line("datapath", kind="device.missing", device=expected, detail=f"interface {ifindex} is {found!r}")
        )
        return False


class RememberedDevices:
    """Devices, and which endpoints lost theirs: their connections must be forgotten before the number is used again.

    Numbers go around, so that takes tens of thousands of endpoints; and what is not forgotten runs out by itself.
    """

    def __init__(self, target: Target[DeviceKey, DeviceInfo]) -> None:
        self._target = target
        self._live: dict[DeviceKey, int] = {}
        self._gone: set[int] = set()
        self._known = Lock()  # who collects is another thread than who writes

    def dump(self) -> Mapping[DeviceKey, DeviceInfo]:
        """What is there now."""
        rows = self._target.dump()
        self._live_are(rows)
        return rows

    def upsert(self, entries: Mapping[DeviceKey, DeviceInfo]) -> None:
        """Every device is there."""
        self._target.upsert(entries)
        self._live_are(entries)

    def delete(self, keys: Collection[DeviceKey]) -> None:
        """None of the devices is there."""
        self._target.delete(keys)
        with self._known:
            self._gone.update(self._live.pop(key) for key in keys if key in self._live)

    def gone(self) -> frozenset[int]:
        """The endpoints that lost their device since this was asked the last time."""
        with self._known:
            gone = frozenset(self._gone.difference(self._live.values()))
            self._gone.clear()
        return gone

    def _live_are(self, rows: Mapping[DeviceKey, DeviceInfo]) -> None:
        with self._known:
            self._live.update((key, row.lxc_id) for key, row in rows.items())
