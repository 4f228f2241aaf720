"""One recorded flow, for whoever asks why it had its verdict."""

import json

from google.protobuf import json_format

from cplane.hubble.flow import FlowBuilder
from cplane.hubble.store import FlowStore


def flow_line(store: FlowStore, uuid: str) -> bytes | None:
    """The flow as a line of JSON, as observers print it; None: it is none of the ring's, or not there any more."""
    position = store.ids.position(uuid)
    if position is None or not store.ring.oldest <= position < store.ring.written:
        return None
    flow = FlowBuilder(store).flow(store.ring.span(position, position + 1), 0)
    return json.dumps({"flow": json_format.MessageToDict(flow, preserving_proto_field_name=True)}).encode()
