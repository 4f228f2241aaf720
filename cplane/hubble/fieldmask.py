"""Field masks: which fields of a Flow a client wants."""

from collections.abc import Iterable, Mapping
from typing import Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from cplane.pb.flow import flow_pb2

# a field to the mask below it; an empty mask there stands for the whole field
Mask = Mapping[str, "Mask"]
_Tree = dict[str, "_Tree"]

PATHS_MAX: Final = 1024  # of one mask
_FLOW: Final[Descriptor] = flow_pb2.Flow.DESCRIPTOR  # type: ignore[assignment]  # the C twin of that class


def parse_mask(paths: Iterable[str]) -> Mask:
    """The mask of these paths of `flow.Flow`.

    Paths that do not exist are left out: newer clients know fields that we do not.
    """
    tree: _Tree = {}
    for path in paths:
        parts = path.split(".")
        if _exists(_FLOW, parts):
            _plant(tree, parts)
    return tree


def unknown_path(paths: Iterable[str]) -> str | None:
    """The first of them that a Flow does not have; for masks of people who wait for no newer version."""
    return next((path for path in paths if not _exists(_FLOW, path.split("."))), None)


def keep(message: Message, mask: Mask) -> None:
    """Everything that the mask does not name is cleared."""
    for field, value in message.ListFields():
        below = mask.get(field.name)
        if below is None:
            message.ClearField(field.name)
        elif below:
            keep(value, below)


def canonical(mask: Mask) -> str:
    """The same text for masks that want the same."""
    return ",".join(f"{name}({canonical(mask[name])})" for name in sorted(mask))


def _plant(tree: _Tree, parts: list[str]) -> None:
    for part in parts[:-1]:
        if tree.get(part) == {}:
            return  # the whole of it is wanted already
        tree = tree.setdefault(part, {})
    tree[parts[-1]] = {}


def _exists(flow: Descriptor, parts: list[str]) -> bool:
    descriptor: Descriptor | None = flow
    for part in parts:
        field = descriptor.fields_by_name.get(part) if descriptor is not None else None
        if field is None:
            return False
        descriptor = None if field.is_repeated else field.message_type
    return True
