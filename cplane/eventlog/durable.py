"""Files that are there as a whole and for good, or not at all."""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, Final

from cplane.eventlog.errors import StorageFailed

UNFINISHED: Final = ".unfinished"  # the end of a name, while the file is written; what a kill left is written over


def put(path: str, write: Callable[[BinaryIO], object], check: Callable[[str], None] | None = None) -> None:
    """The file has what `write` gives, on the disk and under its name. Raises StorageFailed, and what the two raise.

    `check` gets the name of the file while nobody else looks there, after it was synced. An error leaves nothing.
    """
    name = path + UNFINISHED
    try:
        try:
            with open(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if check is not None:
                check(name)
            os.rename(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
        sync_folder(os.path.dirname(path))
    except OSError as error:
        raise StorageFailed(path, f"cannot write it: {error.strerror}") from error


def sync_folder(path: str) -> None:
    """Names that were made or removed in the folder are so after a power loss too. Raises OSError."""
    folder = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
