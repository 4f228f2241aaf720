"""Links of programs to devices and to a cgroup: pinned, so that they outlive us and are replaced without a gap."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from datapath.kernel import pin, syscall
from datapath.kernel.pin import Pins
from datapath.kernel.programs import Place, at
from datapath.kernel.syscall import AttachPoint, KernelObjectMissing, KernelRefused, LinkInfo

_XDP_DRV_MODE: Final = 1 << 2  # by the driver, or not at all: behind it there is a socket buffer already


class Links:
    """The links under one pin folder. Devices are of the network namespace of the calling thread."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins

    def attach(self, ifindex: int, programs: Mapping[str, int], place: Place = Place.POD) -> None:
        """Every program of the place (name → descriptor) runs on the device. Idempotent; a link of ours is updated.

        Raises KernelRefused, also where the device's driver has no XDP.
        """
        for name, program in at(place).items():
            fd = self._open(ifindex, name)
            if fd is not None:
                with _closing(fd):
                    _update(fd, programs[name], f"{program.point.name} of device {ifindex}")
                continue
            flags = _XDP_DRV_MODE if program.point is AttachPoint.XDP else 0
            fd = syscall.link_create(programs[name], ifindex, program.point, f"device {ifindex}", flags)
            with _closing(fd):
                pin.pin(fd, self._pins.link(ifindex, name))

    def detach(self, ifindex: int, place: Place = Place.POD) -> None:
        """None of the place's programs runs on the device. Idempotent, also when the device is gone."""
        for name in at(place):
            self._remove(self._pins.link(ifindex, name))

    def attached(self, place: Place = Place.POD) -> set[int]:
        """Devices on which every program of the place runs."""
        wanted = at(place).keys()
        running: dict[int, set[str]] = {}
        for ifindex, name, _ in self._pins.links():
            fd = self._open(ifindex, name) if name in wanted else None
            if fd is not None:
                os.close(fd)
                running.setdefault(ifindex, set()).add(name)
        return {ifindex for ifindex, names in running.items() if names == wanted}

    def attach_cgroup(self, folder: Path, programs: Mapping[str, int]) -> None:
        """Every program of cgroups serves the processes of this folder of a cgroup2, and of no other. Idempotent.

        Raises OSError when there is no such folder.
        """
        target = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with _closing(target):
            number = os.fstat(target).st_ino
            for name, program in at(Place.CGROUP).items():
                path = self._pins.cgroup_link(name)
                fd = _opened(path)
                if fd is not None:
                    with _closing(fd):
                        if _info(fd).cgroup_id == number:
                            _update(fd, programs[name], f"{program.point.name} of {folder}")
                            continue
                    self._remove(path)
                fd = syscall.link_create(programs[name], target, program.point, str(folder))
                with _closing(fd):
                    pin.pin(fd, path)

    def detach_cgroup(self) -> None:
        """None of our programs runs on a cgroup. Idempotent."""
        for name in at(Place.CGROUP):
            self._remove(self._pins.cgroup_link(name))

    def update(self, programs: Mapping[str, int]) -> int:
        """Every live link runs the program of its name. Returns how many ran another one."""
        changed = 0
        for ifindex, name, _ in list(self._pins.links()):
            fd = self._open(ifindex, name)
            if fd is None or name not in programs:
                continue
            with _closing(fd):
                changed += _update(fd, programs[name], f"{name} of device {ifindex}")
        for name in at(Place.CGROUP):
            fd = _opened(self._pins.cgroup_link(name))
            if fd is not None:
                with _closing(fd):
                    changed += bool(_info(fd).cgroup_id) and _update(fd, programs[name], f"{name} of a cgroup")
        return changed

    def sweep(self) -> int:
        """No pin is left of a device that is gone. Returns how many there were."""
        gone = 0
        for ifindex, name, path in list(self._pins.links()):
            fd = self._open(ifindex, name)
            if fd is None:
                pin.unpin(path)
                gone += 1
            else:
                os.close(fd)
        return gone

    def _open(self, ifindex: int, name: str) -> int | None:
        """A descriptor of the live link; None if there is none, or its device is gone."""
        fd = _opened(self._pins.link(ifindex, name))
        if fd is None or _info(fd).ifindex == ifindex:
            return fd
        os.close(fd)
        return None

    def _remove(self, path: Path) -> None:
        fd = _opened(path)
        if fd is not None:
            with _closing(fd):
                _detach(fd, str(path))
            pin.unpin(path)


@contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _opened(path: Path) -> int | None:
    try:
        return syscall.obj_get(str(path))
    except KernelObjectMissing:
        return None


def _info(fd: int) -> LinkInfo:
    return syscall.link_info(fd)


def _update(link_fd: int, program_fd: int, subject: str) -> bool:
    if _info(link_fd).prog_id == syscall.prog_info(program_fd).id:
        return False
    syscall.link_update(link_fd, program_fd, subject)
    return True


def _detach(fd: int, subject: str) -> None:
    if not _info(fd).ifindex:
        return  # the device took its side of the link with it
    try:
        syscall.link_detach(fd, subject)
    except KernelRefused:
        if _info(fd).ifindex:  # not lost to a race with the device's end
            raise
