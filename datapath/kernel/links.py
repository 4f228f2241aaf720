"""tcx links of pod devices: one per program, pinned, so that they outlive us and are replaced without a gap."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from datapath.kernel import pin, syscall
from datapath.kernel.pin import Pins
from datapath.kernel.syscall import AttachPoint, KernelObjectMissing, KernelRefused, LinkInfo

POINTS: Final[Mapping[str, AttachPoint]] = {
    "to_container": AttachPoint.TCX_EGRESS,
    "from_container": AttachPoint.TCX_INGRESS,
}


class Links:
    """The links under one pin folder. Devices are of the network namespace of the calling thread."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins

    def attach(self, ifindex: int, programs: Mapping[str, int]) -> None:
        """Every program (name → descriptor) runs on the device. Idempotent; a link of ours is updated in place.

        What a pod receives is judged before what it sends is let out: `to_container` comes first.
        """
        for name, point in POINTS.items():
            fd = self._open(ifindex, name)
            if fd is not None:
                with _closing(fd):
                    _update(fd, programs[name], f"{point.name} of device {ifindex}")
                continue
            fd = syscall.link_create(programs[name], ifindex, point)
            with _closing(fd):
                pin.pin(fd, self._pins.link(ifindex, name))

    def detach(self, ifindex: int) -> None:
        """None of our programs runs on the device. Idempotent, also when the device is gone."""
        for name in POINTS:
            path = self._pins.link(ifindex, name)
            try:
                fd = syscall.obj_get(str(path))
            except KernelObjectMissing:
                continue
            with _closing(fd):
                _detach(fd, str(path))
            path.unlink(missing_ok=True)

    def attached(self) -> set[int]:
        """Devices on which every program runs."""
        running: dict[int, set[str]] = {}
        for ifindex, name, _ in self._pins.links():
            fd = self._open(ifindex, name)
            if fd is not None:
                os.close(fd)
                running.setdefault(ifindex, set()).add(name)
        return {ifindex for ifindex, names in running.items() if names == POINTS.keys()}

    def update(self, programs: Mapping[str, int]) -> int:
        """Every live link runs the program of its name. Returns how many ran another one."""
        changed = 0
        for ifindex, name, _ in list(self._pins.links()):
            fd = self._open(ifindex, name)
            if fd is None or name not in programs:
                continue
            with _closing(fd):
                changed += _update(fd, programs[name], f"{name} of device {ifindex}")
        return changed

    def sweep(self) -> int:
        """No pin is left of a device that is gone. Returns how many there were."""
        gone = 0
        for ifindex, name, path in list(self._pins.links()):
            fd = self._open(ifindex, name)
            if fd is None:
                path.unlink(missing_ok=True)
                gone += 1
            else:
                os.close(fd)
        return gone

    def _open(self, ifindex: int, name: str) -> int | None:
        """A descriptor of the live link; None if there is none, or its device is gone."""
        try:
            fd = syscall.obj_get(str(self._pins.link(ifindex, name)))
        except KernelObjectMissing:
            return None
        if _info(fd).ifindex == ifindex:
            return fd
        os.close(fd)
        return None


@contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


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
