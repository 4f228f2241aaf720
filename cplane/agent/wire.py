"""The composition root: opens what an agent needs, connects it, and runs it until it is told to stop."""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from cplane import __version__
from cplane.agent import memory
from cplane.agent.boot import agree, boot, collect_often, follow_devices, keep_addresses, service_options
from cplane.agent.checking import check_often
from cplane.agent.datapaths import Datapath, doctor, open_datapath
from cplane.agent.flows import History, flow_history
from cplane.agent.fqdn import LearnedNames, limits_of
from cplane.agent.healthports import HealthPorts
from cplane.agent.observed import Observed
from cplane.agent.proxies import Proxies
from cplane.agent.refusing import keeping
from cplane.agent.remembering import remember_often
from cplane.agent.requests import Requests
from cplane.agent.retaining import retain_often
from cplane.agent.stale import StaleSockets
from cplane.agent.targets import TranslatedTarget
from cplane.agent.told import Telling
from cplane.api.cni.service import CniService
from cplane.api.errors import refuse
from cplane.api.ports import Agent, Monitor, Verified
from cplane.api.server import admin_services
from cplane.config.model import AgentConfig
from cplane.deciders.world import World
from cplane.domain.access import Access
from cplane.engine.engine import Engine, Turn, replay
from cplane.engine.ports import EventLog
from cplane.errors import Unavailable
from cplane.eventlog.memory import MemoryLog
from cplane.eventlog.reader import MemoryReader, open_history
from cplane.eventlog.refusals import Keeping, Refusals, RefusalsFile
from cplane.eventlog.store import SqliteLog
from cplane.eventlog.stored import StoredLog
from cplane.eventlog.verify import verify_file, with_node
from cplane.hubble.debugring import DebugRing
from cplane.hubble.ingest import pump
from cplane.hubble.parser.seven import AccessParser
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.recorded import Recorded
from cplane.hubble.server import services as hubble_services
from cplane.projections.tables import REDIRECTS, Tables
from cplane.telemetry.clock import SystemClock
from cplane.telemetry.log import line, logger
from cplane.timetravel.history import History as Past
from cplane.transport.address import TcpAddress, UnixAddress
from cplane.transport.grpc import serve
from cplane.transport.tls import BadCertificate, ReloadingContext

if TYPE_CHECKING:
    from cplane.agent.timed import TimedLog

log = logger("agent")


async def run(config: AgentConfig) -> None:
    """One agent, until SIGTERM or SIGINT. Raises CplaneError when it cannot start or go on."""
    clock = SystemClock()
    await to_thread.run_sync(_make_folders, config)
    started_ns = clock.monotonic_ns()
    async with _event_log(config, clock) as opened, flow_history(config, clock) as history:
        timed = _timed(opened, clock) if config.is_metered else None
        event_log = timed or opened
        world, tables = await _folded(opened)
        observed: Observed
        names: LearnedNames
        accesses: AccessParser
        datapath = await to_thread.run_sync(
            open_datapath,
            config,
            service_options(config, world),
            lambda index: observed.host_interface(index),  # noqa: PLW0108  # `observed` comes after
            clock,
        )
        try:
            agree(config, event_log.head, datapath.position())
            telling, refusals = Telling(config, clock), Refusals(_refusals_place(config))
            stale = StaleSockets(datapath)

            def told(turn: Turn) -> None:
                telling.turn(turn)
                stale.turn(turn)
                names.turn(turn)

            proxies = Proxies(
                config,
                lambda records, lost: seen(records, lost),  # noqa: PLW0108  # so does what hears them
                lambda answer: names.learn(answer),  # noqa: PLW0108  # `names` comes after
                prepare=datapath.prepare_proxies,
            )
            requests = Requests(proxies.redirects)
            engine = Engine(
                event_log,
                {REDIRECTS: TranslatedTarget(REDIRECTS, proxies), **datapath.targets},
                datapath.publish,
                started=world,
                tables=tables,
                capacity=datapath.capacity,
                told=told,
                refused=keeping(refusals, clock),
                rejudge=datapath.rejudge,
            )
            telling.started(world)

            def seen(records: Sequence[Access], lost: int) -> None:
                requests.count(records, lost)
                accesses.accesses(records, lost)

            observed = Observed(engine, datapath.netns_cookie)
            accesses = AccessParser(
                history.store,
                observed,
                position=datapath.position,
                now_ns=clock.now_ns,
                redaction=config.hubble.redaction,
            )
            names = LearnedNames(engine, datapath.connected, clock, limits_of(config.dns), proxies.forget)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_told, tasks.cancel_scope)
                tasks.start_soon(engine.run)
                tasks.start_soon(refusals.run)
                await boot(config, engine, datapath)
                memory.started()
                await tasks.start(proxies.run)
                tasks.start_soon(engine.drive)
                tasks.start_soon(telling.agent_events.follow, engine)
                tasks.start_soon(stale.run, engine)
                tasks.start_soon(names.run)
                flows = history.store
                past = partial(_history, config, opened, refusals)
                await _serve(config, engine, datapath, history, past, names, proxies, clock, tasks)
                await _observe(config, datapath, observed, telling, history, clock, tasks)
                if timed is not None:
                    from cplane.agent.metered import meter  # what it imports costs every other agent 10 MB

                    await meter(config, engine, datapath, flows, requests, timed, clock, tasks)
                await engine.wait(engine.head)
                await proxies.adopt()
                _look_after(config, engine, datapath, clock, tasks)  # a sweep before could take what is still wanted
                took_ms = (clock.monotonic_ns() - started_ns) / 1e6
                log.info(line("started", version=__version__, position=engine.head, took_ms=took_ms))
        finally:
            datapath.close()


def _timed(inner: EventLog, clock: SystemClock) -> "TimedLog":
    from cplane.agent.timed import TimedLog  # as with `meter`

    return TimedLog(inner, clock.monotonic_ns)


async def _serve(
    config: AgentConfig,
    engine: Engine,
    datapath: Datapath,
    history: History,
    past: Callable[[], AbstractContextManager[Past]],
    names: LearnedNames,
    proxies: Proxies,
    clock: SystemClock,
    tasks: TaskGroup,
) -> None:
    """Everybody can ask, and what must be repeated is."""
    agent = Agent(
        version=__version__,
        datapath=config.datapath,
        log_location=config.log_shown,
        clock=clock,
        doctor=doctor,
        monitor=lambda: Monitor(config.hubble.monitor != "off", history.store.ring.written, datapath.lost()),
        history=past,
        verify=_verifier(config),
        probe=datapath.probe,
        flow=lambda uuid: _recorded(history).line(uuid),
        seen=lambda sight: _recorded(history).fold(sight),
        debugging=datapath.debugging,
        served_devices=datapath.served_devices,
        proxy_problems=proxies.problems,
        proxies=proxies.states,
        name_left_s=names.left_s,
    )
    cni = CniService(engine, datapath.plumbing, address=UnixAddress(config.cni_socket), clock=clock)
    await tasks.start(partial(serve, admin_services(engine, agent), [UnixAddress(config.admin_socket)], refuse=refuse))
    await tasks.start(cni.run)
    tasks.start_soon(keep_addresses, engine, datapath)
    if config.lb.devices:
        tasks.start_soon(follow_devices, datapath)


async def _observe(
    config: AgentConfig,
    datapath: Datapath,
    observed: Observed,
    telling: Telling,
    history: History,
    clock: SystemClock,
    tasks: TaskGroup,
) -> None:
    """Records become flows, and flows can be read."""
    flows = history.store
    debug = DebugRing(link=observed.interface_name)
    parser = Parser(flows, observed, debug)
    tasks.start_soon(
        partial(
            pump,
            datapath.drain,
            datapath.lost,
            flows,
            parser,
            now_ns=clock.now_ns,
            offset_ns=clock.boot_offset_ns,
        )
    )
    if history.closing is not None:
        tasks.start_soon(history.closing.run)
    addresses: list[UnixAddress | TcpAddress] = [UnixAddress(config.hubble_socket)]
    if config.hubble.tcp:
        given = config.hubble
        files = (given.tls_cert, given.tls_key, given.tls_client_ca)
        tls = ReloadingContext.of(*files, failed=_keep_certificate) if given.tls_cert else None
        addresses.append(TcpAddress(*config.hubble.tcp, tls))
    services = hubble_services(
        flows,
        clock,
        version=__version__,
        agent_events=telling.ring,
        debug_events=debug,
        peers=telling.peers,
        archive=history.archive,
    )
    await tasks.start(partial(serve, services, addresses, refuse=refuse))


def _look_after(config: AgentConfig, engine: Engine, datapath: Datapath, clock: SystemClock, tasks: TaskGroup) -> None:
    """What is done from time to time is, from now on: the kernel has all that the log says."""
    if config.log_location:
        tasks.start_soon(remember_often, config)
        tasks.start_soon(retain_often, config, clock)
    if config.lb.devices:
        tasks.start_soon(HealthPorts(engine).run)
    if config.lb.health_interval_s:
        tasks.start_soon(check_often, engine, float(config.lb.health_interval_s))
    tasks.start_soon(collect_often, datapath)


def _recorded(history: History) -> Recorded:
    """The flows that there are now: in the ring, and in the archive."""
    return Recorded([history.store], history.archive.segments if history.archive is not None else ())


def _keep_certificate(error: BadCertificate) -> None:
    log.error(line("hubble", kind="certificate", path=error.path, error=str(error), detail="the old one stays in use"))


def _make_folders(config: AgentConfig) -> None:
    try:
        for folder in (config.state_dir, config.run_dir):
            Path(folder).mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"a folder that the agent needs cannot be made: {error}") from error


@asynccontextmanager
async def _event_log(config: AgentConfig, clock: SystemClock) -> AsyncIterator[EventLog]:
    if config.log_database:
        async with _database_log(config, clock) as opened:
            yield opened
        return
    if not config.log_path:
        yield MemoryLog(clock)
        return
    async with SqliteLog.open(config.log_path, clock) as opened:
        yield opened


def _database_log(config: AgentConfig, clock: SystemClock) -> AbstractAsyncContextManager[EventLog]:
    from cplane.eventlog.postgres import PostgresLog  # its driver costs all others 20 ms and 9 MB

    return PostgresLog.open(config.log_database, clock, node=config.node_name, folder=config.history_dir)


async def _folded(opened: EventLog) -> tuple[World, Tables]:
    """What the log says. Of one that is stored not everything is read again."""

    def fold(stored: StoredLog) -> tuple[World, Tables]:
        ledger = stored.folded()
        return ledger.world(), Tables(ledger.facts())

    return await (to_thread.run_sync(fold, opened) if isinstance(opened, StoredLog) else replay(opened))


def _refusals_place(config: AgentConfig) -> Keeping | None:
    if config.log_database:
        from cplane.eventlog.postgres_refusals import RefusalsTable  # as above

        return RefusalsTable(config.log_database, config.node_name)
    return RefusalsFile(config.log_path) if config.log_path else None


def _history(config: AgentConfig, opened: EventLog, refusals: Refusals) -> AbstractContextManager[Past]:
    """What the log says of the past, by a reader of its own: whoever asks does not keep the agent waiting."""
    if isinstance(opened, MemoryLog):
        return nullcontext(Past(MemoryReader(opened.entries, refusals.in_memory())))
    return open_history(config.log_location, node=config.node_name, folder=config.history_dir)


def _verifier(config: AgentConfig) -> Callable[[], Awaitable[Verified]] | None:
    """Reads the stored log again; a log in memory cannot be tampered with unseen."""
    if config.log == "memory":
        return None
    place = config.log_path or with_node(config.log_database, config.node_name)

    async def verify() -> Verified:
        found = await to_thread.run_sync(verify_file, place)
        return Verified(
            found.events, found.digest, found.position, found.fault, start=found.start, start_digest=found.start_digest
        )

    return verify


async def _until_told(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            log.info(line("stopping"))
            scope.cancel()
            return
