"""Services by the thousand: as manifests of Kubernetes, and as the administration's API takes them."""

from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Final

import msgspec

from cplane.domain.ports import Protocol
from cplane.domain.service import Backend, Backends, Frontend, Service, ServiceName

_SERVICES: Final = IPv4Address("10.100.0.0")
_BACKENDS: Final = IPv4Address("10.128.0.0")
_NAMESPACE: Final = "bench"


def manifests(services: int, backends: int) -> str:
    """So many Services, and an EndpointSlice of so many addresses for each; no address is in two of them."""
    return "".join(_manifest(number, backends) for number in range(services))


def _manifest(number: int, backends: int) -> str:
    addresses = (_BACKENDS + number * backends + one for one in range(backends))
    endpoints = "".join(f"  - addresses:\n      - {one}\n    conditions:\n      ready: true\n" for one in addresses)
    return f"""\
---
apiVersion: v1
kind: Service
metadata:
  name: service-{number}
  namespace: {_NAMESPACE}
spec:
  type: ClusterIP
  clusterIP: {_SERVICES + number}
  ports:
    - name: http
      port: 80
      protocol: TCP
      targetPort: 8080
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: service-{number}-1
  namespace: {_NAMESPACE}
  labels:
    kubernetes.io/service-name: service-{number}
addressType: IPv4
ports:
  - name: http
    port: 8080
    protocol: TCP
endpoints:
{endpoints}"""


def described(
    name: str, address: str, ports: Sequence[tuple[str, int]], backends: Sequence[tuple[str, str, int]]
) -> bytes:
    """A cluster's service at an address; `backends` are addresses, names of ports, and ports."""
    whose = ServiceName(_NAMESPACE, name)
    fronts = tuple(Frontend(address, port, Protocol.TCP, port_name=called) for called, port in ports)
    behind = tuple(Backend(one, port, Protocol.TCP, called) for one, called, port in backends)
    made = {"services": [Service(name=whose, frontends=fronts)], "backends": [Backends(whose, name, behind)]}
    return msgspec.json.encode(made)
