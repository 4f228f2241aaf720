"""Small clusters on paper: manifests in a few words, and questions about them."""

import json
from collections.abc import Mapping
from typing import Any

from cplane.domain.policy.repository import Enforcement
from cplane.k8s.manifests import Manifests, read_manifests
from cplane.k8s.objects import Source, read_objects
from cplane.k8s.probes import parse_probe
from cplane.k8s.reach import Answer, Reach
from cplane.k8s.scene import Scene

Document = dict[str, Any]


def node(name: str, address: str = "", **labels: str) -> Document:
    """A Node with an internal address; `__` in the name of a label is `/`, `_` is `-`."""
    found: Document = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": _keys(labels)}}
    if address:
        found["status"] = {"addresses": [{"type": "InternalIP", "address": address}]}
    return found


def pod(name: str, address: str = "", *, ports: Mapping[str, int] | None = None, **fields: Any) -> Document:
    """A Pod `namespace/name` whose `app` is its name; `fields` are those of its spec, or `labels`."""
    namespace, _, plain = name.partition("/")
    labels = fields.pop("labels", {"app": plain})
    named = [{"name": port, "containerPort": number} for port, number in (ports or {}).items()]
    found: Document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": plain, "namespace": namespace, "labels": labels},
        "spec": {"containers": [{"name": "main", "image": "x", "ports": named}], **fields},
    }
    if address:
        found["status"] = {"phase": "Running", "podIP": address}
    return found


def service(name: str, *ports: Mapping[str, Any], **spec: Any) -> Document:
    """A Service `namespace/name`; without a selector among its fields it selects pods whose `app` is its name."""
    namespace, _, plain = name.partition("/")
    found = {"selector": {"app": plain}, "ports": list(ports), **spec}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": plain, "namespace": namespace},
        "spec": {key: value for key, value in found.items() if value is not None},
    }


def endpoint_slice(name: str, *addresses: str, ports: list[Mapping[str, Any]], ready: bool = True) -> Document:
    """A slice of the service `namespace/name`."""
    namespace, _, plain = name.partition("/")
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{plain}-1", "namespace": namespace, "labels": {"kubernetes.io/service-name": plain}},
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{"addresses": [one], "conditions": {"ready": ready}} for one in addresses],
    }


def manifests(*documents: Document) -> Manifests:
    """What the documents say, read from their text."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    objects, wrong = read_objects([Source("x.json", text.encode())])
    assert not wrong, wrong
    return read_manifests(objects, cluster="c1")


def scene(*documents: Document, enforcement: str = "default") -> Scene:
    """The documents, which must be sound, as a scene."""
    found = manifests(*documents)
    assert not found.errors, [str(one) for one in found.errors]
    return Scene(found, cluster="c1", enforcement=Enforcement(enforcement))


def ask(reach: Reach, source: str, destination: str, port: int | str | None = 80, **fields: Any) -> Answer:
    """The answer to a probe, which is TCP unless `fields` say otherwise."""
    probe = {"from": source, "to": destination, **fields}
    if port is not None:
        probe["port"] = port
    return reach.answer(parse_probe(json.dumps(probe).encode()))


def _keys(labels: Mapping[str, str]) -> dict[str, str]:
    return {key.replace("__", "/").replace("_", "-"): value for key, value in labels.items()}
