"""Which rows are about certain objects, found without decoding all of them: by the key that each row begins with."""

from collections.abc import Iterable
from typing import Final

import msgspec

from cplane.events.catalog import CATALOG
from cplane.events.endpoint import EndpointDeleted
from cplane.events.identity import IdentityReleased
from cplane.events.policy import PolicyDeleted

_PREFIXES: Final[dict[str, str | tuple[str, ...]]] = {
    "policy": "policy.",
    "endpoint": "endpoint.",
    "identity": ("identity.", "fqdn.addresses_"),
    "pool": "ipam.",
    "node": "node.",
    "options": "config.",
    "service": "service.",
    "backend": "service.backend_state_changed",
    "service-options": "service.options_changed",
    "name": "fqdn.name_",
}
_DOCUMENT: Final = b',"document":'


class About:
    """Rows of the objects of these names (`events.objects`). It may take a few rows too many, and none too few."""

    def __init__(self, names: Iterable[str]) -> None:
        wanted = [name.partition(" ")[::2] for name in names]
        kinds = {kind for kind, _ in wanted}
        self.types = tuple(name for name, _ in CATALOG if any(name.startswith(_PREFIXES[kind]) for kind in kinds))
        self._keys = {_key(kind, rest) for kind, rest in wanted if kind in {"policy", "endpoint", "identity"}}

    def __contains__(self, data: bytes) -> bool:
        """Whether a row of one of `types` with this data may be about one of the objects."""
        if data.startswith((b'{"endpoint":', b'{"number":')):
            end = data.find(b",")
        elif data.startswith(b'{"kind":'):
            end = data.find(_DOCUMENT)
        else:
            return True
        return data[:end] in self._keys  # without a comma, and without a document, only the brace is behind the key


def _key(kind: str, rest: str) -> bytes:
    """What the canonical JSON of every event about the object begins with."""
    if kind == "policy":
        parts = rest.split("/")
        namespace = parts[1] if len(parts) > 2 else ""
        return msgspec.json.encode(PolicyDeleted(kind=parts[0], namespace=namespace, name=parts[-1]))[:-1]
    number = int(rest)
    event = EndpointDeleted(endpoint=number) if kind == "endpoint" else IdentityReleased(number=number)
    return msgspec.json.encode(event)[:-1]
