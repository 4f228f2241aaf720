"""What an agent says about itself: the engine's state in Cilium's words, the log's times, the log lines' levels."""

import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from prometheus_client.metrics_core import Metric

from cplane.agent.readings import of_engine, of_flows, of_requests, of_traffic
from cplane.agent.requests import Requests
from cplane.agent.timed import TimedLog
from cplane.deciders.config import ChangeOptions
from cplane.deciders.policy import ApplyPolicies
from cplane.domain.verdict import Verdict
from cplane.engine.engine import Engine, replay
from cplane.errors import Unavailable
from cplane.eventlog.memory import MemoryLog
from cplane.events.envelope import Envelope, Proposed
from cplane.projections.tables import LXC, UPSERT_ORDER
from cplane.telemetry.logcounts import LogCounts
from datapath.maps.metrics import MetricsDirection, MetricsKey, MetricsValue
from tests.support.accesses import QUERY, access
from tests.support.builders import cnp
from tests.support.clock import TickingClock
from tests.support.engine import JOIN
from tests.support.flows import records, store_of
from tests.support.scenario import pod

pytestmark = pytest.mark.anyio
Samples = dict[tuple[str, ...], float]


class Rows:
    """A table in a dictionary, which fails as often as it is told to."""

    def __init__(self) -> None:
        self.rows: dict[object, object] = {}
        self.failures = 0

    def dump(self) -> Mapping[object, object]:
        return dict(self.rows)

    def upsert(self, entries: Mapping[object, object]) -> None:
        if self.failures:
            self.failures -= 1
            raise Unavailable("no")
        self.rows.update(entries)

    def delete(self, keys: Collection[object]) -> None:
        for key in keys:
            self.rows.pop(key, None)


class MoodyLog(MemoryLog):
    """A log that cannot be written while `broken`."""

    broken = False

    async def append(self, proposed: Proposed) -> Sequence[Envelope]:
        if self.broken:
            raise Unavailable("no space left on device")
        return await super().append(proposed)


class Seconds:
    """A second passes with each look."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 10**9
        return self.now


@asynccontextmanager
async def running(log: MemoryLog | TimedLog) -> AsyncIterator[tuple[Engine, dict[str, Rows]]]:
    targets = {name: Rows() for name in UPSERT_ORDER}
    world, tables = await replay(log)
    engine = Engine(log, targets, lambda _: None, started=world, tables=tables)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.run)
            tasks.start_soon(engine.drive)
            await engine.submit(JOIN, actor="agent")
            await engine.submit(pod("web", "k8s:app=web", ifindex=10), actor="x")
            done = await engine.submit(pod("db", "k8s:app=db", ifindex=11), actor="x")
            await engine.wait(done.position)
            yield engine, targets
            tasks.cancel_scope.cancel()


def samples(metrics: Iterable[Metric]) -> Samples:
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for metric in metrics
        for sample in metric.samples
    }


async def test_the_engines_state_is_told() -> None:
    async with running(MemoryLog(TickingClock())) as (engine, _):
        found = samples(of_engine(engine, "1.2.3"))
        assert found["cilium_version", "1.2.3"] == 1
        assert found["cilium_endpoint",] == 2
        assert (found["cilium_identity", "cluster_local"], found["cilium_identity", "reserved"]) == (2, 10)
        assert found["cilium_ip_addresses", "ipv4"] == 2
        assert found["cilium_ipam_capacity", "ipv4"] == 253
        assert found["cplane_applied_lag",] == 0
        assert found["cilium_bpf_map_pressure", "devices"] == 2 / 65_535


async def test_endpoints_are_told_by_enforcement() -> None:
    async with running(MemoryLog(TickingClock())) as (engine, _):
        document = cnp("a", subject={"matchLabels": {"app": "web"}}, ingress=[{}])
        policy = ApplyPolicies(documents=(json.dumps(document),))
        await engine.submit(policy, actor="x")
        found = samples(of_engine(engine, ""))
        assert found["cilium_policy",] == found["cilium_policy_max_revision",] == 1
        assert found["cilium_policy_endpoint_enforcement_status", "ingress"] == 1
        assert found["cilium_policy_endpoint_enforcement_status", "none"] == 1
        await engine.submit(ChangeOptions(policy_audit=True), actor="x")
        found = samples(of_engine(engine, ""))
        assert found["cilium_policy_endpoint_enforcement_status", "audit-ingress"] == 1
        assert found["cilium_policy_endpoint_enforcement_status", "ingress"] == 0


async def test_a_kernel_that_cannot_be_written_is_told() -> None:
    async with running(MemoryLog(TickingClock())) as (engine, targets):
        targets[LXC].failures = 1
        await engine.submit(pod("other", "k8s:app=other", ifindex=12), actor="x")
        while engine.in_sync:  # noqa: ASYNC110  # nobody is told of failures
            await anyio.sleep(0.001)
        found = samples(of_engine(engine, ""))
        assert (found["cplane_in_sync",], found["cplane_reconcile_failures_total",]) == (0, 1)
        assert found["cplane_applied_lag",] > 0
        assert (found["cilium_endpoint_state", "ready"], found["cilium_endpoint_state", "regenerating"]) == (0, 3)
        await engine.wait(engine.head)
        assert samples(of_engine(engine, ""))["cplane_in_sync",] == 1


async def test_appends_are_timed_and_failures_counted() -> None:
    inner = MoodyLog(TickingClock())
    log = TimedLog(inner, Seconds())
    async with running(log) as (engine, _):
        found = samples(log.metrics())
        assert found["cplane_log_append_seconds_count",] == 3
        assert found["cplane_log_append_seconds_sum",] == 3
        assert found["cplane_log_append_failures_total",] == 0
        inner.broken = True
        with pytest.raises(Unavailable):
            await engine.submit(pod("other", ifindex=12), actor="x")
        assert samples(log.metrics())["cplane_log_append_failures_total",] == 1
        assert log.head == inner.head == len(await log.read(after=0, limit=100))


def test_packets_are_told_by_what_became_of_them() -> None:
    traffic = {
        MetricsKey(0, MetricsDirection.INGRESS): MetricsValue(5, 500),
        MetricsKey(133, MetricsDirection.EGRESS): MetricsValue(2, 120),
    }
    assert samples(of_traffic(traffic)) == {
        ("cilium_forward_count_total", "INGRESS"): 5,
        ("cilium_forward_bytes_total", "INGRESS"): 500,
        ("cilium_drop_count_total", "EGRESS", "Policy denied"): 2,
        ("cilium_drop_bytes_total", "EGRESS", "Policy denied"): 120,
    }


def test_requests_are_told_by_outcome() -> None:
    requests = Requests(lambda: Counter(http=2, dns=1))
    refused = access(verdict=Verdict.DROPPED)
    requests.count([access(), access(answered=True), refused, access(QUERY, verdict=Verdict.ERROR)], 3)
    assert samples(of_requests(requests)) == {
        ("cilium_policy_l7_total", "envoy", "received"): 2,
        ("cilium_policy_l7_total", "envoy", "forwarded"): 1,
        ("cilium_policy_l7_total", "envoy", "denied"): 1,
        ("cilium_policy_l7_total", "fqdn", "received"): 1,
        ("cilium_policy_l7_total", "fqdn", "parse_errors"): 1,
        ("cilium_proxy_redirects", "http"): 2,
        ("cilium_proxy_redirects", "dns"): 1,
        ("cplane_requests_lost_total",): 3,
    }


def test_the_flow_ring_is_told() -> None:
    store = store_of(records({}, {}, {}), capacity=2)
    assert ("cplane_debug_lost_total",) not in samples(of_flows(store, lambda: 7))
    assert samples(of_flows(store, lambda: 7, lambda: 3)) == {
        ("cplane_debug_lost_total",): 3,
        ("cplane_flows_total",): 3,
        ("cplane_flow_ring_flows",): 2,
        ("cplane_flow_ring_capacity",): 2,
        ("cplane_flows_missed_total",): 0,
        ("cplane_monitor_lost_total",): 7,
    }


def test_lines_of_the_log_are_counted_by_level_and_component() -> None:
    counts = LogCounts()
    logger = logging.getLogger("cplane.reconcile")
    with counts.counting():
        logger.warning("one")
        logger.error("two")
        logger.error("three")
        logger.info("not counted")
    logger.error("not counted either")
    assert samples(counts.metrics()) == {
        ("cilium_errors_warnings_total", "warning", "reconcile"): 1,
        ("cilium_errors_warnings_total", "error", "reconcile"): 2,
    }
