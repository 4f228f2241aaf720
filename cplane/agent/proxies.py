"""Redirects as a table of the datapath: each is in force at the proxy that reads its traffic.

A proxy is started with the first redirect that is for it. It goes on without the agent, and the next agent finds it.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Final, Protocol

import anyio
from anyio import from_thread, to_thread
from anyio.abc import TaskGroup, TaskStatus

from cplane.api.ports import ProxyState
from cplane.config.model import AgentConfig
from cplane.domain.access import Access
from cplane.domain.policy.redirection import PARSERS, Redirection
from cplane.errors import Unavailable
from cplane.projections.redirects import RedirectKey
from cplane.proxy.channel import Learned
from cplane.proxy.channel_server import ProxyServer
from cplane.proxy.process import Process, is_alive, read_identity
from cplane.proxy.programs import own
from cplane.telemetry.log import line, logger
from cplane.transport.address import UnixAddress
from cplane.transport.sockets import AddressInUse, CannotListen
from cplane.xds.secrets import Files, Source

_ENVOY: Final = "envoy"
_KAFKA: Final = "kafka"
_DNS: Final = "dns"
_OTHER: Final = "other"
_KINDS: Final[Mapping[str, str]] = {"http": _ENVOY, "tls": _ENVOY, "kafka": _KAFKA, "dns": _DNS}
"""Parser → the proxy that is one."""
assert _KINDS.keys() == PARSERS, "whoever says that there is no proxy for something says so of the same"

log = logger("proxy")

ADOPT_AGAIN_S: Final = 5.0

Rows = Mapping[RedirectKey, Redirection]


class NoProxy(Unavailable):
    """A proxy cannot be run or told anything, as with a full disk or too many open files."""

    code = "proxy.unavailable"

    def __init__(self, kind: str, reason: str) -> None:
        self.kind, self.reason = kind, reason

    def __str__(self) -> str:
        return f"proxy {self.kind!r}: {self.reason}"


class Backend(Protocol):
    """One proxy."""

    async def apply(self, put: Mapping[int, Redirection], gone: Collection[int]) -> None:
        """The proxy enforces it, or could not in about a second. Idempotent."""
        ...

    async def run(self) -> None:
        """The proxy runs until this is cancelled, and after that by itself."""
        ...

    def problems(self) -> Mapping[int, str]:
        """By proxy port: why it is not in force."""
        ...

    @property
    def is_connected(self) -> bool:
        """Whether the proxy hears what it is told."""
        ...

    async def connections(self) -> int | None:
        """Connections of clients that it has; None: nobody knows."""
        ...


class Proxies:
    """Fits `engine.ports.Target`. Its methods as a target are called from worker threads of the loop that runs it."""

    def __init__(
        self,
        config: AgentConfig,
        seen: Callable[[list[Access], int], None],
        learned: Callable[[Learned], Awaitable[None]] | None = None,
        *,
        prepare: Callable[[], None] | None,
    ) -> None:
        """`prepare` makes the node ready, before any proxy is told anything; None: there can be no proxies."""
        self._config, self._seen = config, seen
        self._prepare = prepare if config.proxy.enabled else None
        self._folder = Path(config.run_dir) / "proxy"
        self._channel = ProxyServer(UnixAddress(str(self._folder / "channel.sock"), 0o600), seen, learned)
        self._rows: dict[RedirectKey, Redirection] = {}
        self._backends: dict[str, Backend] = {}
        self._making = anyio.Lock()  # of whoever makes a back end: `adopt` comes while the first rows do
        self._tasks: TaskGroup | None = None
        self._ready = False
        self._served = False

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Proxies are started, told and heard until this is cancelled."""
        async with anyio.create_task_group() as self._tasks:
            task_status.started()
            await anyio.sleep_forever()

    def dump(self) -> Rows:
        """What this agent has told."""
        return dict(self._rows)

    def upsert(self, entries: Rows) -> None:
        """The proxies enforce it, as far as they are there."""
        if self._prepare is None:
            self._rows.update(entries)
            return
        if not self._ready:
            self._prepare()
            self._ready = True
        from_thread.run(self._apply, entries, ())

    def delete(self, keys: Collection[RedirectKey]) -> None:
        """They know nothing of it any more."""
        if self._prepare is not None:
            from_thread.run(self._apply, {}, keys)
            return
        for key in keys:
            self._rows.pop(key, None)

    async def adopt(self) -> None:
        """Proxies that an earlier agent has left, and that no redirect is for, learn that there is none."""
        for kind in (_ENVOY, _KAFKA, _DNS) if self._prepare is not None else ():
            found = read_identity(self._folder / f"{kind}.pid")
            if kind not in self._backends and found is not None and is_alive(found):
                try:
                    await (await self._backend(kind)).apply({}, ())
                except NoProxy as error:
                    assert self._tasks is not None, "a back end was to be made"
                    log.warning(line("proxy not adopted", kind=kind, error=str(error)))
                    self._tasks.start_soon(self._adopt_later)
                    return

    async def _adopt_later(self) -> None:
        await anyio.sleep(ADOPT_AGAIN_S)
        await self.adopt()

    def forget(self, endpoint_ip: str) -> None:
        """What DNS told the endpoint with that address is not known any more: the proxy tells again."""
        self._channel.forget(endpoint_ip)

    def redirects(self) -> Counter[str]:
        """How many proxy ports there are for each parser."""
        return Counter(row.parser for row in self._rows.values())

    def problems(self) -> Mapping[int, str]:
        """By proxy port: why what is redirected there is dropped, or not judged as it should be."""
        if self._prepare is None:
            return {key.proxy_port: "no proxy is run here: this traffic is dropped (178)" for key in self._rows}
        found: dict[int, str] = {}
        for backend in self._backends.values():
            found.update(backend.problems())
        return found

    async def states(self) -> list[ProxyState]:
        """Each proxy that can be, and `other` where redirects are for none of them."""
        redirects: Counter[str] = Counter()
        failing: Counter[str] = Counter()
        problems = self.problems()
        for key, row in self._rows.items():
            kind = _KINDS.get(row.parser, _OTHER)
            redirects[kind] += 1
            failing[kind] += kind == _OTHER or key.proxy_port in problems
        kinds = (_ENVOY, _DNS, _KAFKA, *([_OTHER] if redirects[_OTHER] else []))
        return [await self._state(kind, redirects[kind], failing[kind]) for kind in kinds]

    async def _state(self, kind: str, redirects: int, failing: int) -> ProxyState:
        found = read_identity(self._folder / f"{kind}.pid")
        pid = found.pid if found is not None and is_alive(found) else 0
        backend = self._backends.get(kind)
        if backend is None or not pid:
            return ProxyState(kind, pid, connected=False, redirects=redirects, failing=failing)
        count = await backend.connections()
        return ProxyState(kind, pid, backend.is_connected, redirects, failing, count)

    async def _apply(self, put: Rows, gone: Collection[RedirectKey]) -> None:
        told: dict[str, tuple[dict[int, Redirection], set[int]]] = {}
        for key in (*put, *gone):
            held = self._rows.pop(key, None)
            now = put.get(key)
            if held is not None and (now is None or _KINDS.get(now.parser) != _KINDS.get(held.parser)):
                _of(told, held)[1].add(key.proxy_port)
            if now is not None:
                self._rows[key] = now
                _of(told, now)[0][key.proxy_port] = now
        # What has left one proxy may be the port that another is to listen at.
        await self._tell({kind: ({}, ports) for kind, (rows, ports) in told.items() if ports})
        await self._tell({kind: (rows, ()) for kind, (rows, _) in told.items() if rows})

    async def _tell(self, told: Mapping[str, tuple[Mapping[int, Redirection], Collection[int]]]) -> None:
        backends = {kind: await self._backend(kind) for kind in told if kind}
        async with anyio.create_task_group() as tasks:
            for kind, backend in backends.items():
                tasks.start_soon(backend.apply, *told[kind])

    async def _backend(self, kind: str) -> Backend:
        """The back end, which is made if need be. Raises NoProxy: another time it may be."""
        async with self._making:
            found = self._backends.get(kind)
            if found is None:
                assert self._tasks is not None, "redirects come when proxies can be run"
                try:
                    self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                    found = self._backends[kind] = await self._made(kind, self._tasks)
                except (OSError, AddressInUse, CannotListen) as error:
                    raise NoProxy(kind, str(error)) from error
                self._tasks.start_soon(found.run)
                log.info(line("proxy wanted", kind=kind))
            return found

    async def _made(self, kind: str, tasks: TaskGroup) -> Backend:
        if kind == _ENVOY:
            return await to_thread.run_sync(self._envoy)
        if not self._served:
            await tasks.start(self._channel.run)
            self._served = True
        arguments = _kafka_arguments(self._config) if kind == _KAFKA else _dns_arguments(self._config)
        return self._channel.backend(kind, Process(own(kind, self._folder, *arguments)).run)

    def _envoy(self) -> Backend:
        from cplane.agent.envoy import Envoy, Settings  # its messages cost all others 100 ms and 40 MB

        config = self._config
        settings = Settings(self._folder, _secrets(config), config.node_name, config.proxy.envoy_workers)
        return Envoy(settings, lambda records: self._seen(records, 0))


def _of(
    told: dict[str, tuple[dict[int, Redirection], set[int]]], row: Redirection
) -> tuple[dict[int, Redirection], set[int]]:
    return told.setdefault(_KINDS.get(row.parser, ""), ({}, set()))


def _secrets(config: AgentConfig) -> Source:
    if config.proxy.secrets_kubernetes:
        from cplane.agent.apiserver import locate  # all others need no client of HTTP
        from cplane.agent.kubesecrets import KubernetesSecrets

        return KubernetesSecrets(locate(config.proxy.secrets_kubernetes))
    return Files(Path(config.proxy.secrets_dir or Path(config.state_dir) / "secrets"))


def _kafka_arguments(config: AgentConfig) -> tuple[str, ...]:
    return ("--clamp" if config.proxy.kafka_clamp else "--no-clamp",)


def _dns_arguments(config: AgentConfig) -> tuple[str, ...]:
    return ("--reject", config.dns.reject, "--max-delay-ms", str(config.dns.max_delay_ms))
