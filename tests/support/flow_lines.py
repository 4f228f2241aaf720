"""Flows as lines of JSON, as observers print them."""

import json
from typing import Any


def flow(**changed: Any) -> dict[str, Any]:
    """A packet from the pod shop/client to somebody outside that was dropped at position 41, with these changes."""
    return {
        "uuid": "u-1",
        "time": "2026-01-01T00:00:00.123456789Z",
        "verdict": "DROPPED",
        "IP": {"source": "10.0.0.1", "destination": "10.0.0.2"},
        "l4": {"TCP": {"source_port": 4000, "destination_port": 80, "flags": {"SYN": True}}},
        "source": {"ID": 3, "identity": 300, "namespace": "shop", "pod_name": "client"},
        "destination": {"identity": 2},
        "extensions": {"@type": "any", "position": "41"},
        "node_name": "left aside",
        **changed,
    }


def line(**changed: Any) -> bytes:
    """The line of such a flow."""
    return json.dumps({"flow": flow(**changed), "time": "aside"}).encode()
