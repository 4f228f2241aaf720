"""Envoy's control plane: one delta ADS stream for all resources, and the service that takes its access log.

What `apply` is given is in force when it returns, or as soon as Envoy is there. Until the first `apply`, which names
all there are, an Envoy that outlived an agent is told nothing, and goes on as it was.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.discovery.v3 import discovery_pb2
from grpclib.const import Cardinality, Handler
from grpclib.exceptions import StreamTerminatedError
from h2.exceptions import ProtocolError

from cplane.domain.access import Access
from cplane.domain.policy.http import Items, Secret
from cplane.domain.policy.redirection import Redirection
from cplane.telemetry.log import line, logger
from cplane.transport.address import UnixAddress
from cplane.transport.calls import Limits
from cplane.transport.grpc import serve
from cplane.xds.accesslog import Reader, direction_of
from cplane.xds.delta import Client
from cplane.xds.listeners import Logged
from cplane.xds.messages import LISTENER, TYPES, Key, Resource
from cplane.xds.records import Records
from cplane.xds.resources import Rendered, render, secrets_named
from cplane.xds.secrets import Source

if TYPE_CHECKING:
    from grpclib.server import Stream

log = logger("xds")

APPLY_S: Final = 1.0
"""How long `apply` waits for Envoy."""

_MESSAGE_BYTES_MAX: Final = 64 << 20
_LARGE_MESSAGES: Final = 1 << 62  # they are counted for a call, and the log is one call for ever
_TURN: Final = 50  # redirections that are rendered before others of the event loop have theirs
_ABSENT: Final = "the proxy is not connected"
_PENDING: Final = "the proxy has not answered yet"
_DELTA: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
_LOGS: Final = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"


@dataclass(frozen=True, slots=True)
class Options:
    """Where secrets come from, and what of requests is logged."""

    secrets: Source
    logged: Logged = field(default_factory=Logged)


class Server:
    """What Envoy is told, and what it tells: its resources by redirection, and records of access to `seen`."""

    def __init__(self, options: Options, seen: Callable[[list[Access]], None]) -> None:
        self._options, self._seen = options, seen
        self._redirections: dict[int, Redirection] = {}
        self._rendered: dict[int, Rendered] = {}
        self._wanted: dict[str, dict[str, Resource]] = {one: {} for one in TYPES}
        self._uses: dict[Key, int] = {}
        self._secrets: Mapping[Secret, Items] = {}
        self._used: dict[int, dict[Secret, Items | None]] = {}  # by port that names any: what it was rendered with
        self._told = False
        self._reader = Reader()
        self._clients: list[Client] = []
        self._changed = anyio.Event()
        self._answered = anyio.Event()

    async def serve(self, address: UnixAddress, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Envoy is served at the address until this is cancelled; secrets are read again when they change."""
        async with anyio.create_task_group() as group:
            limits = Limits(message_bytes=_MESSAGE_BYTES_MAX, large_messages=_LARGE_MESSAGES)
            await group.start(partial(serve, [self], [address], limits=limits))
            group.start_soon(self._options.secrets.run)
            group.start_soon(self._watch_secrets)
            task_status.started()

    async def apply(self, put: Mapping[int, Redirection], gone: Collection[int], timeout_s: float = APPLY_S) -> None:
        """Redirections are as said, at Envoy too when this returns, unless that takes longer than the timeout.

        The first call says all there are.
        """
        await self._read_secrets(put, gone)
        listeners = [Key(LISTENER, str(port)) for port in gone if port in self._rendered]
        for port in gone:
            self._forget(port)
        for number, (port, redirection) in enumerate(put.items()):
            self._put(port, redirection)
            if number % _TURN == _TURN - 1:
                await anyio.lowlevel.checkpoint()
        self._told = True
        self._notify()
        with anyio.move_on_after(timeout_s):
            while not self._settled(put, listeners):
                await self._answered.wait()

    @property
    def is_connected(self) -> bool:
        """Whether an Envoy is there."""
        return bool(self._clients)

    def problems(self) -> dict[int, str]:
        """By proxy port: why what was said of it is not in force, or not all of it."""
        reasons = self._options.secrets.reasons()
        return {port: text for port, one in self._rendered.items() if (text := self._problem(port, one, reasons))}

    def _problem(self, port: int, rendered: Rendered, told: Mapping[Secret, str]) -> str:
        client = self._clients[-1] if self._clients else None
        if client is None:
            return _ABSENT
        reasons = [reason for one in rendered.resources if (reason := client.refused(one))]
        if not reasons and not all(map(client.has, rendered.resources)):
            reasons = [_PENDING]
        secrets = [
            f"secret {one.namespace}/{one.name}: {told[one]}" for one in sorted(self._used.get(port, ())) if one in told
        ]
        return "; ".join(filter(None, [*dict.fromkeys(reasons), rendered.problem, *secrets]))

    def _settled(self, put: Iterable[int], gone: Iterable[Key]) -> bool:
        """Whether Envoy has answered to all of it."""
        client = self._clients[-1] if self._clients else None
        if client is None:
            return False
        resources = (one for port in put if port in self._rendered for one in self._rendered[port].resources)
        return all(client.has(one) or client.refused(one) for one in resources) and all(map(client.gone, gone))

    def _put(self, port: int, redirection: Redirection) -> None:
        if port in self._used:
            self._used[port] = {one: self._secrets.get(one) for one in secrets_named(redirection)}
        made = render(port, redirection, self._secrets, self._options.logged)
        for one in made.resources:  # before what was there goes: what both have stays
            self._uses[one.key] = self._uses.get(one.key, 0) + 1
            self._want(one)
        self._forget(port)
        self._redirections[port], self._rendered[port] = redirection, made

    def _forget(self, port: int) -> None:
        self._redirections.pop(port, None)
        found = self._rendered.pop(port, None)
        for one in found.resources if found is not None else ():
            self._uses[one.key] -= 1
            if not self._uses[one.key]:
                del self._uses[one.key], self._wanted[one.key.type_url][one.key.name]
                self._touch(one.key)

    def _want(self, one: Resource) -> None:
        held = self._wanted[one.key.type_url]
        if held.get(one.key.name) != one:
            held[one.key.name] = one
            self._touch(one.key)

    def _touch(self, key: Key) -> None:
        for client in self._clients:
            client.touch(key)

    def _notify(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def _hear(self) -> None:
        answered, self._answered = self._answered, anyio.Event()
        answered.set()

    # ---- delta ADS

    async def _discover(
        self, stream: "Stream[discovery_pb2.DeltaDiscoveryRequest, discovery_pb2.DeltaDiscoveryResponse]"
    ) -> None:
        """One Envoy; the one that came last counts, which after a hot restart is the new one."""
        client = Client()
        self._clients.append(client)
        log.info(line("proxy connected", kind="envoy"))
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._send, stream, client)
                while (request := await stream.recv_message()) is not None:
                    client.receive(request)
                    self._log_refusal(request)
                    self._notify()
                    self._hear()
                group.cancel_scope.cancel()
        finally:
            self._clients.remove(client)
            log.info(line("proxy disconnected", kind="envoy"))

    async def _send(
        self,
        stream: "Stream[discovery_pb2.DeltaDiscoveryRequest, discovery_pb2.DeltaDiscoveryResponse]",
        client: Client,
    ) -> None:
        with suppress(StreamTerminatedError, ProtocolError):  # it has gone, which who reads hears too
            while True:
                changed = self._changed
                if self._told:
                    for response in client.responses(self._wanted):
                        await stream.send_message(response)
                await changed.wait()

    @staticmethod
    def _log_refusal(request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        if request.HasField("error_detail"):
            kind = request.type_url.rpartition(".")[2]
            log.error(line("proxy refused its configuration", kind=kind, error=request.error_detail.message))

    # ---- access log

    async def _take_logs(self, stream: "Stream[Any, als_pb2.StreamAccessLogsResponse]") -> None:
        """Records of one worker and listener kind, as long as its stream lasts."""
        direction = None
        while (message := await stream.recv_message()) is not None:
            if direction is None:
                direction = direction_of(message.identifier.log_name)
            self._seen(self._reader.accesses(message, direction))
        await stream.send_message(als_pb2.StreamAccessLogsResponse())

    def __mapping__(self) -> dict[str, Handler]:
        """What grpclib asks for."""
        return {
            _DELTA: Handler(
                self._discover,
                Cardinality.STREAM_STREAM,
                discovery_pb2.DeltaDiscoveryRequest,
                discovery_pb2.DeltaDiscoveryResponse,
            ),
            _LOGS: Handler(
                self._take_logs,
                Cardinality.STREAM_UNARY,
                Records,
                als_pb2.StreamAccessLogsResponse,
            ),
        }

    # ---- secrets

    async def _watch_secrets(self) -> None:
        """Redirections whose secrets change are rendered again."""
        while True:
            await self._options.secrets.changed()
            await self._read_secrets({}, ())
            for port, used in tuple(self._used.items()):
                redirection = self._redirections.get(port)  # there is none yet while it is put
                if redirection is not None and any(self._secrets.get(one) != was for one, was in used.items()):
                    self._put(port, redirection)
                    self._notify()

    async def _read_secrets(self, put: Mapping[int, Redirection], gone: Collection[int]) -> None:
        """What is named by redirections, after this change of them, is known as it is now."""
        for port in gone:
            self._used.pop(port, None)
        for port, redirection in put.items():
            named = secrets_named(redirection)
            self._used.pop(port, None)
            if named:
                self._used[port] = dict.fromkeys(named)
        self._secrets = await self._options.secrets.read({one for named in self._used.values() for one in named})
