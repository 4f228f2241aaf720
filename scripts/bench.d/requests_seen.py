"""What it costs to make flows of what proxies saw: records of HTTP, each with a URL and headers of its own."""

import gc
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from report import Result, at_most, spread
from rig import Rig

from cplane.domain.access import Access, Address, Http, Phase
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.verdict import Direction, Verdict
from cplane.hubble.kept import open_store
from cplane.hubble.parser.seven import AccessParser
from tests.support.flows import SEED, START_NS, World

_RING = 1 << 18
_BATCH = 256  # records, as proxies send them
_BATCHES = 40
_ROUNDS = 9
_POLICY = PolicyRef("CiliumNetworkPolicy", "shop", "only-public")


def measure(rig: Rig) -> Iterator[Result]:
    """CPU time for each record, into a ring that is kept in files."""
    folder = rig.folder / "requests"
    folder.mkdir()
    path = folder / "flows.ring"
    store = open_store(str(path), cluster="default", node="node1", capacity=_RING, new_id=SEED, boot=bytes(16))
    parser = AccessParser(store, World(), position=lambda: 1, now_ns=time.time_ns)
    found = []
    for number in range(_ROUNDS):
        batches = [_batch(first * _BATCH) for first in range(number * _BATCHES, (number + 1) * _BATCHES)]
        gc.collect()
        gc.freeze()  # a proxy's records are gone before the next ones come: those that wait here are our own doing
        began = _cpu_s()
        for batch in batches:
            parser.accesses(batch)
        found.append((_cpu_s() - began) * 1e6 / (_BATCH * _BATCHES))
        gc.unfreeze()
    records = _ROUNDS * _BATCHES * _BATCH
    tables, payloads = (Path(f"{path}.{name}").stat() for name in ("tables", "payloads"))
    rig.say(f"l7: a record becomes a flow: {spread(found, 'µs')}")
    rig.say(
        f"l7: {records:,} different requests: {tables.st_size:,} bytes of tables, "
        f"{payloads.st_blocks * 512:,} of requests"
    )
    yield Result(name="l7.flow_cpu_us", value=median(found), unit="µs", aim=at_most(10))


def _batch(first: int) -> list[Access]:
    """Requests and answers in turn."""
    return [_record(number, answered=number % 2 == 1) for number in range(first, first + _BATCH)]


def _record(number: int, *, answered: bool) -> Access:
    headers = (
        (":authority", "api.shop.svc.cluster.local"),
        (":scheme", "http"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, br"),
        ("user-agent", "python-requests/2.32.3"),
        ("x-forwarded-proto", "http"),
        ("x-request-id", f"{number:032x}"),
        ("x-token", str(number)),
    )
    url = f"http://api.shop.svc.cluster.local/public/items/{number}?page={number % 7}"
    client, server = Address("10.244.0.11", 30_000 + number % 20_000), Address("10.244.0.12", 80)
    return Access(
        time_ns=START_NS + number * 1000,
        phase=Phase.RESPONSE if answered else Phase.REQUEST,
        direction=Direction.EGRESS,
        verdict=Verdict.FORWARDED,
        protocol=6,
        source=server if answered else client,
        destination=client if answered else server,
        payload=Http("GET", url, "HTTP/1.1", 200 if answered else 0, headers),
        proxy_port=10_001,
        rules=(_POLICY,),
        latency_ns=1_234_567 + number if answered else 0,
    )


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
