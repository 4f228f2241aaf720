"""Targets as the engine wants them."""

from collections.abc import Collection, Mapping
from threading import Thread

import pytest

from cplane.agent.targets import OwnDevices, Refused, RememberedDevices, TranslatedTarget
from datapath.maps.endpoints import DeviceInfo, DeviceKey
from tests.support.exhausted import files_left


class Rows:
    """A table that takes everything."""

    def __init__(self) -> None:
        self.put: list[DeviceKey] = []

    def dump(self) -> Mapping[DeviceKey, None]:
        return {}

    def upsert(self, entries: Collection[DeviceKey]) -> None:
        self.put += entries

    def delete(self, keys: Collection[DeviceKey]) -> None:
        pass


def test_a_device_that_nobody_could_look_at_is_not_left_without_programs():
    rows = Rows()
    target = TranslatedTarget("programs", OwnDevices(rows, lambda _: "lo"))  # type: ignore[arg-type]
    with files_left(), pytest.raises(Refused):
        target.upsert({DeviceKey(1): None})
    target.upsert({DeviceKey(1): None})
    assert rows.put == [DeviceKey(1)]


class Slow(set[int]):
    """While it is compared with another one, another thread deletes a device."""

    def __init__(self, devices: RememberedDevices) -> None:
        super().__init__()
        self.thread = Thread(target=devices.delete, args=([DeviceKey(2)],))

    def difference(self, *others: object) -> set[int]:
        self.thread.start()
        self.thread.join(0.05)
        return super().difference(*others)  # type: ignore[arg-type]


def test_an_endpoint_that_loses_its_device_while_it_is_asked_is_told_the_next_time():
    devices = RememberedDevices(Rows())  # type: ignore[arg-type]
    devices.upsert({DeviceKey(n): DeviceInfo(9, 9, n, 0, bytes(4), bytes(16), bytes(6), bytes(6)) for n in (1, 2)})
    devices._gone = slow = Slow(devices)
    devices.delete([DeviceKey(1)])
    told = devices.gone()
    slow.thread.join()
    devices._gone = set(slow)
    assert told | devices.gone() == {1, 2}
