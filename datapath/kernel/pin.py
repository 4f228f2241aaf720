"""Where our kernel objects live: a folder of a bpffs, by which a process with no memory knows them as ours.

    <root>/maps/<map name>                  every map of the catalogue
    <root>/progs/<digest>_<program name>    the programs of one compilation
    <root>/links/<ifindex>_<program name>   what runs on which device
    <root>/links/cgroup_<program name>      what serves the processes of our cgroup

Nobody else may write there, and we write nowhere else.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from datapath.errors import Corrupt, Unavailable
from datapath.kernel import syscall

_BPF_FS_MAGIC: Final = 0xCAFE4A11
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_FOLDERS: Final = ("maps", "progs", "links")


class NoBpffs(Unavailable):
    """There is no bpffs at a path, and none could be mounted."""

    code = "pin.no_bpffs"

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"no bpffs at {self.path} ({self.reason}); as root: mount -t bpf bpffs /sys/fs/bpf"


class PinsGone(Corrupt):
    """Somebody has removed our folder: what ran on devices does not any more, and maps are nobody's but ours."""

    code = "pin.gone"

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return (
            f"{self.path} was removed, and with it what is enforced on devices: start the agent again, it is put there"
        )


class Pins:
    """The pin folder at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def open(cls, root: Path, *, mount: Path = Path("/sys/fs/bpf")) -> "Pins":
        """The folders exist. Mounts a bpffs when `root` lies under `mount` and nothing is mounted there.

        Raises NoBpffs when `root` is not, and cannot be, in a bpffs.
        """
        if not is_bpffs(_existing(root)):
            if mount != root and mount not in root.parents:
                raise NoBpffs(root, f"it is neither in a bpffs nor under {mount}")
            _mount(mount)
        for name in _FOLDERS:
            try:
                (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise NoBpffs(root, os.strerror(error.errno or 0)) from error
        return cls(root)

    def map(self, name: str) -> Path:
        """Where the map `name` is pinned."""
        return self.root / "maps" / name

    def program(self, digest: str, name: str) -> Path:
        """Where a program of one compilation is pinned. A bpffs allows no dots in names."""
        return self.root / "progs" / f"{digest}_{name}"

    def link(self, ifindex: int, name: str) -> Path:
        """Where the link of a program on a device is pinned."""
        return self.root / "links" / f"{ifindex}_{name}"

    def cgroup_link(self, name: str) -> Path:
        """Where the link of a program on our cgroup is pinned."""
        return self.root / "links" / f"cgroup_{name}"

    def programs(self) -> Iterator[tuple[str, str, Path]]:
        """Every pinned program: digest, name, path. Raises PinsGone, KernelRefused."""
        for path in _in(self.root / "progs"):
            digest, _, name = path.name.partition("_")
            yield digest, name, path

    def links(self) -> Iterator[tuple[int, str, Path]]:
        """Every pinned link on a device: ifindex at its creation, program name, path. Raises as `programs`."""
        for path in _in(self.root / "links"):
            ifindex, _, name = path.name.partition("_")
            if ifindex.isdecimal():
                yield int(ifindex), name, path

    def remove(self) -> None:
        """Nothing of ours is pinned, and what nobody else holds is gone from the kernel. Idempotent."""
        for name in reversed(_FOLDERS):
            folder = self.root / name
            if not folder.is_dir():
                continue
            for path in folder.iterdir():
                path.unlink(missing_ok=True)
            folder.rmdir()
        if self.root.is_dir() and not any(self.root.iterdir()):
            self.root.rmdir()


def pin(fd: int, path: Path) -> None:
    """The object is pinned at `path`, in place of whatever was there."""
    try:
        syscall.obj_pin(fd, str(path))
    except syscall.KernelObjectExists:
        unpin(path)
        syscall.obj_pin(fd, str(path))


def unpin(path: Path) -> None:
    """Nothing is pinned at `path`. Idempotent. Raises KernelRefused."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise syscall.KernelRefused("remove pin", str(path), error.errno or errno.EIO) from error


def is_bpffs(path: Path) -> bool:
    """Whether `path` lies in a bpffs."""
    buffer = (ctypes.c_long * 32)()  # struct statfs begins with f_type
    if _LIBC.statfs(os.fsencode(path), buffer):
        return False
    return buffer[0] == _BPF_FS_MAGIC


def _in(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        raise PinsGone(folder) from None
    except OSError as error:
        raise syscall.KernelRefused("list pins", str(folder), error.errno or errno.EIO) from error


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _mount(path: Path) -> None:
    if not path.is_dir():
        raise NoBpffs(path, "there is no such folder")
    if _LIBC.mount(b"bpffs", os.fsencode(path), b"bpf", 0, b"mode=0700"):
        number = ctypes.get_errno()
        if number != errno.EBUSY:
            raise NoBpffs(path, os.strerror(number))
