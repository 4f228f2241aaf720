"""What both transports of the DNS proxy do with a question and its answer: judge, tell Hubble, let the agent learn."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from cplane.domain.access import Access, Address, Dns, Phase
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.verdict import Verdict
from cplane.proxy.dnsnames import Names, Told
from cplane.proxy.dnsrules import Rules
from cplane.proxy.dnswire import NOERROR, REFUSED, Answer, Query

CONCURRENT_MAX: Final = 4096
"""Questions that are asked at once; a further one is dropped, and the client asks again."""
CONNECTIONS_MAX: Final = 1024
OF_CLIENT_MAX: Final = 512
"""Of one client: questions, and connections."""
PATIENCE_S: Final = 5.0
"""How long a server may take."""
RELEASE_S: Final = 0.1
"""How long an answer waits for the datapath to know what is in it, if nobody says otherwise."""
_TELLING: Final = 256  # answers that the agent is told of at once without anybody waiting
_TELLING_S: Final = 1.0


class Agent(Protocol):
    """What is needed of the channel; ProxyClient fits."""

    @property
    def connected(self) -> bool:
        """Whether the agent is there."""
        ...

    def seen(self, record: Access) -> None:
        """Hubble will be told."""
        ...

    async def learned(
        self, endpoint_ip: str, name: str, ips: tuple[str, ...], ttl: int, time_ns: int, server: str
    ) -> bool:
        """Whether the datapath knows the answer now."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """`reject` is the code of an answer to who may not ask; `release_s` as RELEASE_S."""

    reject: int = REFUSED
    release_s: float = RELEASE_S
    patience_s: float = PATIENCE_S
    concurrent: int = CONCURRENT_MAX
    connections: int = CONNECTIONS_MAX
    of_client: int = OF_CLIENT_MAX


class Exchange(NamedTuple):
    """A question that may be asked: who asks whom, by which rules, and since when (monotonic, ns)."""

    query: Query
    rules: Rules
    refs: tuple[PolicyRef, ...]
    client: Address
    server: Address
    protocol: int
    began_ns: int


@dataclass(slots=True)
class Serving:
    """What all ports of the proxy share. `counts`: what became of messages, by reason."""

    agent: Agent
    settings: Settings
    names: Names
    counts: Counter[str] = field(default_factory=Counter)
    _telling: set[asyncio.Task[None]] = field(default_factory=set)
    _on_the_way: Counter[tuple[str, str]] = field(default_factory=Counter)  # to the agent: endpoint and name

    def judge(self, query: Query, rules: Rules, client: Address, server: Address, protocol: int) -> Exchange | None:
        """The exchange that follows; None: it may not be asked. Hubble knows either."""
        refs = rules.allowing(query.name)
        verdict = Verdict.DROPPED if refs is None else Verdict.FORWARDED
        self.counts["denied" if refs is None else "asked"] += 1
        self.agent.seen(
            Access(
                time.time_ns(),
                Phase.REQUEST,
                rules.direction,
                verdict,
                protocol,
                client,
                server,
                Dns(query.name, query.qtypes),
                rules.port,
                refs or (),
            )
        )
        if refs is None:
            return None
        return Exchange(query, rules, refs, client, server, protocol, time.monotonic_ns())

    def answered(self, exchange: Exchange, answer: Answer) -> Told | None:
        """Hubble knows the answer. What the agent has to know before the client does; None: nothing."""
        ips = answer.ips
        self.counts["answered"] += 1
        if answer.malformed:
            self.counts["malformed"] += 1
        query, rules = exchange.query, exchange.rules
        self.agent.seen(
            Access(
                time.time_ns(),
                Phase.RESPONSE,
                rules.direction,
                Verdict.FORWARDED,
                exchange.protocol,
                exchange.server,
                exchange.client,
                Dns(query.name, query.qtypes, answer.rcode, ips, answer.ttl, answer.cnames, answer.rrtypes),
                rules.port,
                exchange.refs,
                time.monotonic_ns() - exchange.began_ns,
            )
        )
        if not ips or answer.rcode != NOERROR:
            return None
        told = Told(exchange.client.ip, query.name, ips, answer.ttl, exchange.server.ip)
        is_new, is_due = self.names.learn(told, time.monotonic())
        if is_new and self.agent.connected:
            return told
        if is_due and self.agent.connected:
            self._tell(told)
        return None

    async def learned(self, told: Told) -> None:
        """The datapath knows the addresses, or as much time is over as an answer waits."""
        if not await self._learned(told, self.settings.release_s):
            self.counts["released_untold"] += 1

    async def keep_telling(self) -> None:
        """What the agent could not be told is told when it can be; what counts no more is forgotten. Never ends."""
        was_there, at = False, time.monotonic()
        while True:
            await asyncio.sleep(0.2)
            is_there, now = self.agent.connected, time.monotonic()
            if is_there and not was_there:
                self.names.forget_all()
            was_there = is_there
            if is_there:
                for told in self.names.untold(now):
                    if not self._on_the_way[told.endpoint, told.name] and not await self._learned(told, _TELLING_S):
                        break
            if now - at > 1:
                self.names.expire(now)
                at = now

    def _tell(self, told: Told) -> None:
        if len(self._telling) >= _TELLING:
            return
        task = asyncio.get_running_loop().create_task(self._tell_alone(told))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell_alone(self, told: Told) -> None:
        await self._learned(told, _TELLING_S)

    async def _learned(self, told: Told, patience_s: float) -> bool:
        """Whether the datapath knows the addresses, within that time."""
        key, began = (told.endpoint, told.name), time.monotonic()
        self._on_the_way[key] += 1
        try:
            async with asyncio.timeout(patience_s):
                done = await self.agent.learned(
                    told.endpoint, told.name, told.ips, told.ttl, time.time_ns(), told.server
                )
        except TimeoutError:
            return False
        finally:
            self._on_the_way[key] -= 1
            if not self._on_the_way[key]:
                del self._on_the_way[key]
        if done:
            self.names.confirm(told, began)
        return done
