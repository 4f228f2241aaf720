"""The log position of a flow, which stands in `Flow.extensions`: as a message on the wire, as a text in JSON.

protojson reads an Any only if it knows the type in it, and refuses the whole line otherwise, also where it is told to
discard what it does not know. A text (`google.protobuf.StringValue`) is known to every reader of flows, so a file of
ours can be given to the original's `--input-file`.
"""

from typing import Final

from google.protobuf.any_pb2 import Any

from cplane.pb.cplane.flow.v1 import extension_pb2

TYPE_URL: Final = f"type.googleapis.com/{extension_pb2.Origin.DESCRIPTOR.full_name}"
_TEXT: Final = "cplane:position="  # read again by cplane.timetravel.flows


def origin_json(position: object) -> str:
    """The extension of a flow in JSON."""
    return f'{{"@type":"type.googleapis.com/google.protobuf.StringValue","value":"{_TEXT}{position}"}}'


def packed_json(packed: Any) -> str | None:
    """The same, where the extension is ours; None: it is somebody else's."""
    if packed.type_url != TYPE_URL:
        return None
    return origin_json(extension_pb2.Origin.FromString(packed.value).position)
