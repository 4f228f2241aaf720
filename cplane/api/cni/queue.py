"""Deletions that came while the agent was away: a folder of small files. Standard library only.

The plugin pushes, the agent drains. A file appears by rename after fsync, so it is whole or not there;
names sort in the order of arrival; a lock keeps plugins from taking the same number or more than the folder
may hold.
"""

import errno
import fcntl
import json
import os
from collections.abc import Iterator

ENTRIES_MAX = 256  # files of any kind; a push into a full folder is refused
_SUFFIX = ".json"
_SPOILT = ".bad"


class QueueFullError(Exception):
    """The folder holds as many files as it may."""

    def __init__(self, folder: str) -> None:
        super().__init__(f"{folder} holds {ENTRIES_MAX} deletions already: start the agent, it works them off")


def folder_of(socket_path: str) -> str:
    """Where deletions wait by default: beside the agent's socket."""
    return os.path.join(os.path.dirname(socket_path), "delete-queue")


def push(folder: str, request: dict[str, object]) -> None:
    """The request is on disk, after all that were pushed before. Raises QueueFullError and OSError."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    lock = os.open(os.path.join(folder, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        names = _names(folder)
        if len(names) >= ENTRIES_MAX:
            raise QueueFullError(folder)
        last = max((int(name.split(".")[0]) for name in names), default=0)
        _write(folder, f"{last + 1:016d}{_SUFFIX}", json.dumps(request).encode())
    finally:
        os.close(lock)  # which releases it


def waiting(folder: str) -> Iterator[tuple[str, dict[str, object] | None]]:
    """Name and request of each file, oldest first; None where it is no request. No folder, no files."""
    for name in _names(folder):
        if not name.endswith(_SUFFIX):
            continue
        try:
            with open(os.path.join(folder, name), "rb") as file:
                request = json.loads(file.read())
        except FileNotFoundError:
            continue  # another drain was faster
        except (ValueError, RecursionError):
            request = None
        yield name, request if isinstance(request, dict) else None


def remove(folder: str, name: str) -> None:
    """The file is gone for good."""
    try:
        os.unlink(os.path.join(folder, name))
    except FileNotFoundError:
        return
    _sync(folder)


def set_aside(folder: str, name: str) -> None:
    """The file will not be offered again, and stays for somebody to look at; it still takes up a place."""
    os.replace(os.path.join(folder, name), os.path.join(folder, name.removesuffix(_SUFFIX) + _SPOILT))


def _names(folder: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if name.split(".")[0].isdecimal())


def _write(folder: str, name: str, data: bytes) -> None:
    path = os.path.join(folder, name)
    draft = os.path.join(folder, f".{name}.tmp")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        if os.write(file, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), draft)
        os.fsync(file)
    finally:
        os.close(file)
    os.rename(draft, path)
    _sync(folder)


def _sync(folder: str) -> None:
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
