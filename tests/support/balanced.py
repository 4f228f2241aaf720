"""Manifests for the load balancer in a few words, and what is read of them."""

import json
from collections.abc import Mapping
from typing import Any

from cplane.domain.service import Backend, Frontend
from cplane.k8s.lb import LbManifests, read_lb
from cplane.k8s.lb_reading import Here
from cplane.k8s.objects import Source, read_objects

Document = dict[str, Any]
HTTP: Document = {"name": "http", "port": 80}


def kube_service(*, status: object = None, annotations: Mapping[str, object] | None = None, **spec: Any) -> Document:
    """Service shop/web at 10.96.0.1, port 80; fields of its spec that are None are left out."""
    found: Document = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "labels": {"tier": "front"}},
        "spec": {k: v for k, v in {"clusterIP": "10.96.0.1", "ports": [HTTP], **spec}.items() if v is not None},
    }
    if status is not None:
        found["status"] = status
    if annotations is not None:
        found["metadata"]["annotations"] = dict(annotations)
    return found


def kube_slice(*endpoints: object, name: str = "web-1", **fields: Any) -> Document:
    """EndpointSlice shop/web-1 of service shop/web with a port http=8080; texts are endpoints with that address."""
    written = [{"addresses": [one]} if isinstance(one, str) else one for one in endpoints]
    found: Document = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": written,
    }
    return {key: value for key, value in {**found, **fields}.items() if value is not None}


def kube_pod(name: str = "p", *ports: Document, address: str = "10.0.0.9", node: str = "n1", **fields: Any) -> Document:
    """Pod shop/p with these ports of its container, that runs at an address."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "dns"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i", "ports": list(ports)}]},
        "status": {"phase": "Running", "podIP": address},
        **fields,
    }


def kube_redirect(frontend: Document, backend: Document | None = None, **spec: Any) -> Document:
    """CiliumLocalRedirectPolicy shop/dns to pods with app=dns."""
    dns = {"localEndpointSelector": {"matchLabels": {"app": "dns"}}, "toPorts": [{"port": "5353", "protocol": "UDP"}]}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumLocalRedirectPolicy",
        "metadata": {"name": "dns", "namespace": "shop"},
        "spec": {"redirectFrontend": frontend, "redirectBackend": backend or dns, **spec},
    }


def read(*documents: object, here: Here = Here()) -> LbManifests:  # noqa: B008  # frozen
    """What the documents say, sound or not."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    objects, wrong = read_objects([Source("x.json", text.encode())])
    assert not wrong, wrong
    return read_lb(objects, here)


def sound(*documents: object, here: Here = Here()) -> LbManifests:  # noqa: B008  # frozen
    """What the documents say, with which nothing is wrong."""
    found = read(*documents, here=here)
    assert not found.errors, [str(one) for one in found.errors]
    return found


def errors(*documents: object, here: Here = Here()) -> list[str]:  # noqa: B008  # frozen
    """`path: message` of everything that is wrong; the path is that in the first document where there is one."""
    found = read(*documents, here=here)
    return [f"{_path(one.path, len(documents))}: {one.message}" for one in found.errors]


def notes(*documents: object, here: Here = Here()) -> list[str]:  # noqa: B008  # frozen
    """The same of what is said of sound documents."""
    return [f"{_path(one.path, len(documents))}: {one.message}" for one in sound(*documents, here=here).notes]


def _path(path: str, count: int) -> str:
    return path.removeprefix("items[0].") if count == 1 else path


def places(frontends: tuple[Frontend, ...]) -> list[str]:
    """Frontends as `ADDRESS:PORT/PROTOCOL KIND NAME`."""
    return [f"{one} {one.kind} {one.port_name}".rstrip() for one in frontends]


def ends(backends: tuple[Backend, ...]) -> list[str]:
    """Backends as `ADDRESS:PORT/PROTOCOL NAME STATE`."""
    return [f"{one} {one.port_name} {one.state}" for one in backends]
