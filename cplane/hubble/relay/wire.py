"""The composition root: opens what a relay needs, connects it, and runs it until it is told to stop."""

import os
import random
import signal
import ssl
from functools import partial

import anyio
from grpclib.health.check import ServiceStatus

from cplane import __version__
from cplane.hubble.relay.dial import Dialer, MakeTls
from cplane.hubble.relay.directory import Directory, server_name
from cplane.hubble.relay.flows import Patience
from cplane.hubble.relay.notices import Notices
from cplane.hubble.relay.notified import Notified
from cplane.hubble.relay.pool import Pool
from cplane.hubble.relay.server import Relay, tell_health
from cplane.hubble.relay.settings import Settings
from cplane.telemetry.clock import SystemClock
from cplane.telemetry.log import line, logger
from cplane.transport.address import TcpAddress, UnixAddress
from cplane.transport.grpc import serve
from cplane.transport.tls import BadCertificate, ReloadingContext, client_context

log = logger("relay")

_PEER_SERVICE = "hubble-peer"  # what upstream calls it in certificates


async def run(settings: Settings) -> None:
    """One relay, until SIGTERM or SIGINT. Raises CplaneError when it cannot start."""
    clock = SystemClock()
    for warning in settings.warnings:
        log.warning(line("setting passed over", detail=warning))
    make_tls = _client_tls(settings)
    if make_tls is not None:
        make_tls()  # files that cannot be used are an error of the start
    dialer = Dialer(make_tls, settings.dial_s, settings.retry_s)
    chance = random.SystemRandom().random
    pool = Pool(dialer, clock, chance, log)
    name = server_name(_PEER_SERVICE, settings.cluster)
    notified = Notified(settings.peer_service, name, Directory(settings.cluster), pool, dialer, clock, log)
    patience = Patience(window=settings.window, drain_s=settings.drain_s)
    relay = Relay(pool, dialer, clock, Notices(_own_name()), patience, version=__version__)
    health = ServiceStatus()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_until_told, tasks.cancel_scope)
        await tasks.start(pool.run)
        (address,) = await tasks.start(partial(serve, [relay], [_listening(settings)], ready=[health]))
        if settings.health is not None:
            await tasks.start(partial(serve, [], [settings.health], ready=[health]))
        tasks.start_soon(notified.run, chance)
        tasks.start_soon(tell_health, health, notified, pool)
        log.info(line("started", version=__version__, address=str(address)))


def _client_tls(settings: Settings) -> MakeTls | None:
    """Makes a context for each connection, so renewed certificates need no restart; None: plaintext."""
    if not settings.client_tls:
        return None

    def make() -> ssl.SSLContext:
        context = client_context(
            authorities=settings.server_authorities,
            certificate=settings.client_certificate,
            key=settings.client_key,
        )
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context

    return make


def _listening(settings: Settings) -> UnixAddress | TcpAddress:
    """Where clients are served; TLS is of TCP only."""
    address = settings.listen
    if not settings.server_tls or isinstance(address, UnixAddress):
        return address
    tls = ReloadingContext.of(
        settings.server_certificate, settings.server_key, settings.client_authority, failed=_keeps_certificate
    )
    return TcpAddress(address.host, address.port, tls)


def _keeps_certificate(bad: BadCertificate) -> None:
    log.error(line("certificates cannot be read again; those from before stay", code=bad.code, error=str(bad)))


def _own_name() -> str:
    """How the relay calls itself among nodes."""
    return os.environ.get("NODE_NAME", "") or os.uname().nodename


async def _until_told(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return
