"""Metrics and exports of an agent: who counts, who writes, and where it can be read."""

from collections.abc import Sequence
from functools import partial

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from cplane import __version__
from cplane.agent.datapaths import Datapath
from cplane.agent.readings import of_engine, of_flows, of_requests, of_traffic
from cplane.agent.requests import Requests
from cplane.agent.timed import TimedLog
from cplane.config.model import AgentConfig, host_port
from cplane.config.tls import TlsFiles
from cplane.engine.engine import Engine
from cplane.hubble.exporter.config import static_export
from cplane.hubble.exporter.run import Exports
from cplane.hubble.metrics.collector import FlowMetrics, count
from cplane.hubble.metrics.contexts import Pod
from cplane.hubble.store import FlowStore
from cplane.telemetry.clock import SystemClock
from cplane.telemetry.log import line, logger
from cplane.telemetry.logcounts import LogCounts
from cplane.telemetry.metrics import Source, exposition, process, take
from cplane.transport.address import TcpAddress
from cplane.transport.http import Answer, Get, health, serve
from cplane.transport.tls import HTTP1, BadCertificate, ReloadingContext

log = logger("metrics")


async def meter(
    config: AgentConfig,
    engine: Engine,
    datapath: Datapath,
    flows: FlowStore,
    requests: Requests,
    log: TimedLog,
    clock: SystemClock,
    tasks: TaskGroup,
) -> None:
    """Flows are exported and counted, and everybody can read how the agent does, as far as the configuration says.

    Raises BadExport, BadCertificate and CannotListen.
    """
    hubble: list[Source] = []
    exports = Exports(
        flows,
        clock.now_ns,
        static=static_export(config.hubble),
        watched=config.hubble.flowlogs_config_path,
        marks=f"{config.state_dir.rstrip('/')}/exports",
    )
    if config.hubble.export_file_path or config.hubble.flowlogs_config_path:
        tasks.start_soon(exports.run)
        hubble.append(exports.metrics)
    if config.hubble.metrics_listen:
        metrics = FlowMetrics(flows, config.hubble.wanted_metrics, limit=config.hubble.metrics_sets_max)
        pods = partial(pods_of, engine)
        tasks.start_soon(partial(count, flows, metrics, pods=pods, monotonic_ns=clock.monotonic_ns))
        paths = {"/metrics": scrape([metrics.families, *hubble])}
        await tasks.start(partial(serve, paths, _address(config.hubble.metrics_listen, config.hubble.metrics_tls)))
    if config.metrics_listen:
        await tasks.start(
            _own, config, engine, datapath, flows, requests, log, [] if config.hubble.metrics_listen else hubble
        )


async def _own(
    config: AgentConfig,
    engine: Engine,
    datapath: Datapath,
    flows: FlowStore,
    requests: Requests,
    log: TimedLog,
    more: Sequence[Source],
    *,
    task_status: anyio.abc.TaskStatus[TcpAddress] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """The agent's own metrics, and whether it is well."""
    logged, debugging = LogCounts(), datapath.debugging
    sources = [
        lambda: of_engine(engine, __version__),
        lambda: of_flows(flows, datapath.lost, debugging.lost if debugging is not None else None),
        lambda: of_requests(requests),
        log.metrics,
        logged.metrics,
        process("cilium"),
        *more,
    ]
    paths: dict[str, Get] = {
        "/metrics": scrape(sources, lambda: of_traffic(datapath.traffic())),
        "/healthz": health(partial(wrong_with, engine)),
    }
    with logged.counting():
        await serve(paths, _address(config.metrics_listen, config.metrics_tls), task_status=task_status)


def _address(listen: str, tls: TlsFiles | None) -> TcpAddress:
    """Where to listen; certificates are read again when they change. Raises BadCertificate."""
    context = None
    if tls is not None:
        files = (tls.certificate, tls.key, *tls.client_authorities)
        context = ReloadingContext.of(*files, protocol=HTTP1, failed=partial(_keep_certificate, listen))
    return TcpAddress(*host_port(listen), context)


def _keep_certificate(listen: str, error: BadCertificate) -> None:
    detail = "the old one stays in use"
    log.error(line("metrics", kind="certificate", address=listen, path=error.path, error=str(error), detail=detail))


def scrape(sources: Sequence[Source], blocking: Source | None = None) -> Get:
    """The sources' metrics. `blocking` is asked in a thread, and so is the text written, which takes long."""
    thread = anyio.CapacityLimiter(1)  # its own: those who ask must not take the threads that write the kernel

    async def get(accept: str) -> Answer:
        more = list(await to_thread.run_sync(blocking, limiter=thread)) if blocking is not None else []
        content, kind = await to_thread.run_sync(exposition, [*take(sources), *more], accept, limiter=thread)
        return Answer(content, kind)

    return get


def pods_of(engine: Engine) -> frozenset[Pod]:
    """The pods of this node."""
    return frozenset(Pod(one.namespace, one.pod) for one in engine.world.endpoints.values())


def wrong_with(engine: Engine) -> str:
    """Why the kernel does not enforce what the log says; empty when it does."""
    return f"the datapath is not in sync: {engine.failure or 'it is being written'}" if not engine.in_sync else ""
