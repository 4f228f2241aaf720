"""Secrets as files: `<folder>/<namespace>/<name>/<item>`, as Kubernetes mounts them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cplane.domain.policy.http import Secret

_ITEM_BYTES_MAX: Final = 1 << 20
_ITEMS_MAX: Final = 64


def read_secrets(folder: Path, secrets: Iterable[Secret]) -> dict[Secret, dict[str, bytes]]:
    """Items of the secrets by name; a secret that is not there, or cannot be read, is left out."""
    found = ((one, _read(folder, one)) for one in secrets)
    return {one: items for one, items in found if items is not None}


def _read(folder: Path, secret: Secret) -> dict[str, bytes] | None:
    if not (_is_name(secret.namespace) and _is_name(secret.name)):
        return None
    place = folder / secret.namespace / secret.name
    try:
        # names that begin with dots are what Kubernetes exchanges folders by
        files = sorted(one for one in place.iterdir() if not one.name.startswith(".") and one.is_file())[:_ITEMS_MAX]
        return {one.name: one.read_bytes() for one in files if one.stat().st_size <= _ITEM_BYTES_MAX}
    except OSError:
        return None


def _is_name(text: str) -> bool:
    """Whether it names a folder, and not one somewhere else."""
    return bool(text) and "/" not in text and "\0" not in text and not text.startswith(".")
