"""What of a stretch of the log still matters at its end: the last word about each object, and no other.

Most events are about what is gone or has changed since, and need not be decoded to be folded. Which object an event is
about stands at the beginning of its canonical JSON (`codec.encode` writes fields in the order of the class, the key
first, without spaces), and of one object the last word counts. Everything else is kept, so a gist is never too small.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final

from cplane.domain.identity import NumericIdentity, is_local

Placed = tuple[int, bytes, int, bytes]
"""Position, type, schema and data of a row."""

_ADDRESS_ALLOCATED: Final = b"ipam.address_allocated"
_ENDPOINT_CREATED: Final = b"endpoint.created"
_IDENTITY_ALLOCATED: Final = b"identity.allocated"
_POLICY_UPSERTED: Final = b"policy.upserted"
_POLICY_DELETED: Final = b"policy.deleted"

# What is freed was taken before, in this stretch or before it; and what is taken was free.
_FREEING: Final = {
    _ADDRESS_ALLOCATED: b"ipam.address_released",
    _IDENTITY_ALLOCATED: b"identity.released",
    _ENDPOINT_CREATED: b"endpoint.deleted",
}
_FREED: Final = frozenset(_FREEING.values())
# Of an endpoint that may be gone by then, or come again: a fold in order sees to that.
_CHANGED: Final = frozenset({b"endpoint.relabelled", b"endpoint.configured"})
_WHOLE: Final = frozenset({b"node.addresses_changed", b"config.options_changed"})
# A node that joins is in none of these, because policies before the first are read otherwise; nor is a pool.

_OWNER: Final = b',"owner":'
_DOCUMENT: Final = b',"document":'
_NUMBER: Final = len(b'{"number":')


class Gist:
    """Takes rows in their order; gives those that matter, in their order."""

    def __init__(self, after: int) -> None:
        self.position = after
        self._kept: list[Placed] = []
        self._objects: dict[bytes, Placed] = {}
        self._given: dict[bytes, Placed] = {}  # the last number or address that was given of each sort, used or not

    def add(self, types: Sequence[bytes], datas: Sequence[bytes]) -> None:
        """Rows with these types and data, all of schema 1, come next."""
        objects, given, kept = self._objects, self._given, self._kept
        position = self.position
        for kind, data in zip(types, datas, strict=True):  # a million times: spelled out, most frequent first
            position += 1
            if kind == _ADDRESS_ALLOCATED:
                row = (position, kind, 1, data)
                objects[data[: data.find(_OWNER)]] = row
                given[data[: data.find(b",")]] = row
            elif kind in _FREED:
                if objects.pop(data[:-1], None) is None:
                    kept.append((position, kind, 1, data))
            elif kind == _ENDPOINT_CREATED:
                objects[data[: data.find(b",")]] = given[kind] = (position, kind, 1, data)
            else:
                self._take((position, kind, 1, data))
        self.position = position

    def keep(self, kind: bytes, schema: int, data: bytes) -> None:
        """A row of which nothing is known comes next."""
        self.position += 1
        self._kept.append((self.position, kind, schema, data))

    def rows(self) -> Iterator[Placed]:
        """What is left."""
        left = {row[0]: row for row in chain(self._kept, self._objects.values())}
        freed = {row[0]: row for row in self._given.values() if row[0] not in left}
        left |= freed
        for position in sorted(left):
            row = left[position]
            yield row
            if position in freed:
                yield _freeing(row)

    def _take(self, row: Placed) -> None:
        _, kind, _, data = row
        if kind == _IDENTITY_ALLOCATED:
            key = data[: data.find(b",")]
            self._objects[key] = self._given[_scope(key)] = row
        elif kind == _POLICY_UPSERTED:
            self._objects[data[: data.find(_DOCUMENT)]] = row
        elif kind == _POLICY_DELETED:
            self._objects[data[:-1]] = row
        elif kind in _CHANGED:
            self._objects[kind + data[: data.find(b",")]] = row
        elif kind in _WHOLE:
            self._objects[kind] = row
        else:
            self._kept.append(row)


def _scope(key: bytes) -> bytes:
    """Whose numbers they are; what is no number at all is left to whoever decodes it."""
    text = key[_NUMBER:]
    return b"local" if text.isdigit() and is_local(NumericIdentity(int(text))) else b"cluster"


def _freeing(row: Placed) -> Placed:
    """What has freed again what the row took: the same without all that follows the key."""
    position, kind, schema, data = row
    end = data.find(_OWNER if kind == _ADDRESS_ALLOCATED else b",")
    return position, _FREEING[kind], schema, data[:end] + b"}"
