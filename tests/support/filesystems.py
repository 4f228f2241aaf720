"""Small and read-only filesystems for tests, gone afterwards."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small(path: Path, size_kib: int) -> Iterator[Path]:
    """A filesystem in memory with so much room, mounted at the new folder `path`. Needs root."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kib}k,mode=0700", "cpt", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)
        path.rmdir()


def run_read_only(place: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python script run where nothing in `place`, a folder or a file, can be written, root or not. Needs root.

    It runs in a mount namespace of its own: for everybody else `place` is as it was.
    """
    shell = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-ec", shell, str(place), sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
