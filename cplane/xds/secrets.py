"""Where secrets come from, and one such place: files `FOLDER/NAMESPACE/NAME/ITEM`, as Kubernetes mounts them."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol

import anyio
from anyio import to_thread

from cplane.domain.policy.http import ITEM_BYTES_MAX, ITEMS_MAX, Items, Secret

_LOOK_S: Final = 1.0


class Source(Protocol):
    """Where secrets come from."""

    async def run(self) -> None:
        """Secrets are followed until this is cancelled."""
        ...

    async def read(self, named: Collection[Secret]) -> Mapping[Secret, Items]:
        """Items by name of each of these secrets, without those that are not there or cannot be read.

        Others are not wanted any more. Waits a second at most.
        """
        ...

    async def changed(self) -> None:
        """Waits until something may be otherwise than when this returned last. It is for one who waits."""
        ...

    def reasons(self) -> Mapping[Secret, str]:
        """Why a secret is not there, or may be another by now, where that is known."""
        ...


class Files:
    """Fits `Source`; looked at every second."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def run(self) -> None:
        """Nothing is to be done."""

    async def read(self, named: Collection[Secret]) -> Mapping[Secret, Items]:
        """Those that are there now."""
        return await to_thread.run_sync(read_secrets, self._folder, named) if named else {}

    async def changed(self) -> None:
        """A second later."""
        await anyio.sleep(_LOOK_S)

    def reasons(self) -> Mapping[Secret, str]:
        """Nothing: that it is not there is all that can be said."""
        return {}


def read_secrets(folder: Path, secrets: Iterable[Secret]) -> dict[Secret, Items]:
    """Items of the secrets by name; a secret that is not there, or cannot be read, is left out."""
    found = ((one, _read(folder, one)) for one in secrets)
    return {one: items for one, items in found if items is not None}


def _read(folder: Path, secret: Secret) -> Items | None:
    if not (_is_name(secret.namespace) and _is_name(secret.name)):
        return None
    place = folder / secret.namespace / secret.name
    try:
        # names that begin with dots are what Kubernetes exchanges folders by
        files = sorted(one for one in place.iterdir() if not one.name.startswith(".") and one.is_file())[:ITEMS_MAX]
        return {one.name: one.read_bytes() for one in files if one.stat().st_size <= ITEM_BYTES_MAX}
    except OSError:
        return None


def _is_name(text: str) -> bool:
    """Whether it names a folder, and not one somewhere else."""
    return bool(text) and "/" not in text and "\0" not in text and not text.startswith(".")
