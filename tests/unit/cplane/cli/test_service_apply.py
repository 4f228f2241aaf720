"""`cplane service apply`: manifests in, services out, or every mistake and nothing."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.admin import administered, cplane, run
from tests.support.engine import ListEngine

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SOUND = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: NodePort
  clusterIP: 10.96.0.1
  ports:
  - {name: http, port: 80, nodePort: 30080}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  namespace: shop
  labels: {kubernetes.io/service-name: web}
addressType: IPv4
ports:
- {name: http, port: 8080}
endpoints:
- addresses: [10.0.0.1]
- addresses: [10.0.0.2]
  conditions: {ready: false, serving: true, terminating: true}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: other}}
"""


@pytest.fixture
def anyio_backend() -> str:
    """grpclib is written for asyncio."""
    return "asyncio"


@pytest.fixture
def engine() -> ListEngine:
    return ListEngine()


@pytest.fixture
async def path(engine: ListEngine, tmp_path: Path) -> AsyncIterator[Path]:
    """A socket with an agent behind it."""
    socket = tmp_path / "cpt.sock"
    async with administered(engine, socket):
        yield socket


async def test_services_and_backends_of_manifests_are_applied(path: Path, engine: ListEngine):
    done = await cplane(path, "service", "apply", "-f", "-", stdin=SOUND)
    assert done.code == 0
    assert done.out == f"shop/web changed\nposition {engine.head}\n"
    assert done.err == "cplane: ignored objects that mean nothing to services: 1 ConfigMap\n"
    shown = await run(path, "service", "list")
    assert "0.0.0.0:30080/TCP" in shown.out
    assert "10.0.0.1:8080/TCP 10.0.0.2:8080/TCP (terminating)" in shown.out
    again = await run(path, "service", "apply", "-f", "-", stdin=SOUND)
    assert again.out == f"position {engine.head}\n"


async def test_every_mistake_is_told_and_nothing_is_applied(path: Path, engine: ListEngine, tmp_path: Path):
    file = tmp_path / "web.yaml"
    file.write_text(SOUND.replace("port: 80,", "port: 0,").replace("10.0.0.1]", "10.0.0.300]"))
    head = engine.head
    done = await run(path, "service", "apply", "-f", str(file))
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines() == [
        f"cplane: {file}, document 1, spec.ports[0].port: expected an integer from 1 to 65535, got number 0",
        f"cplane: {file}, document 2, endpoints[0].addresses[0]: '10.0.0.300' is not an IP address",
    ]
    assert engine.head == head


async def test_what_has_no_services_is_refused(path: Path):
    done = await run(path, "service", "apply", "-f", "-", stdin="{apiVersion: v1, kind: ConfigMap}")
    assert (done.code, done.err) == (1, "cplane: there is nothing of services in it\n")
