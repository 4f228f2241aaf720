"""What the DNS proxy learns becomes facts, and is in the kernel before the client has its answer.

An answer whose addresses are known already is no event; here is known how long they count (`domain.fqdncache`). What
was learned by an earlier agent counts from the start of this one for its whole time: the proxy, which has gone on, soon
tells what is in use.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final, Protocol

import anyio
from anyio import to_thread
from immutables import Map

from cplane.agent.attempts import Attempts
from cplane.config.dns import DnsConfig
from cplane.deciders.fqdn import Answer, Ended, ExpireNames, RecordAnswers, selectors_of
from cplane.deciders.world import Command, World
from cplane.domain.fqdncache import TTL, Held, Lifetimes, Limits
from cplane.domain.policy.dns import DnsRule
from cplane.engine.engine import Committed, Turn
from cplane.errors import CplaneError, Unavailable
from cplane.events.endpoint import EndpointDeleted
from cplane.events.fqdn import NameExpired
from cplane.projections.addresses import packed
from cplane.projections.tables import LXC
from cplane.proxy.channel import Learned
from cplane.telemetry.log import line, logger
from datapath.maps.endpoints import EndpointKey

SWEEP_S: Final = 5.0
ACTOR: Final = "dns-proxy"
_TOGETHER: Final = 256  # answers of one command
_WAITING_MAX: Final = 4096  # answers for names that nobody selects; a further one is not recorded
_KNOWN_MAX: Final = 4096  # names of which it is known whether they are selected

log = logger("fqdn")

Connected = Callable[[Mapping[int, Collection[bytes]]], Collection[tuple[int, bytes]]]
"""Which of these (endpoint → addresses) have an open connection. Blocks."""


class Clock(Protocol):
    """What is needed of a clock."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that only grow."""
        ...


class Enforcement(Protocol):
    """What is needed of an engine."""

    @property
    def world(self) -> World:
        """Everything that is true now."""
        ...

    def desired(self, table: str) -> Mapping[Any, Any]:
        """What a table should contain."""
        ...

    async def submit(self, command: Command, *, actor: str, cause: str = "") -> Committed:
        """The command has been decided and its events are durable."""
        ...

    async def wait(self, position: int) -> None:
        """Returns when the datapath has everything up to `position`."""
        ...


@dataclass(slots=True)
class _Waiting:
    answer: Answer
    done: anyio.Event = field(default_factory=anyio.Event)
    position: int = 0
    error: CplaneError | None = None


def limits_of(config: DnsConfig) -> Limits:
    """How long what is learned counts."""
    return Limits(
        min_ttl_s=config.min_ttl_s,
        grace_s=config.idle_grace_s,
        ips_per_name=config.ips_per_name_max,
        deferred=config.deferred_max,
    )


class LearnedNames:
    """`learn` is what a ProxyServer calls; `run` serves it and lets time pass."""

    def __init__(
        self,
        engine: Enforcement,
        connected: Connected,
        clock: Clock,
        limits: Limits,
        forget: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`forget` is told addresses of endpoints of which the proxy has to tell again what it learns."""
        self._forget = forget
        self._engine, self._connected, self._clock = engine, connected, clock
        self._selecting: Map[DnsRule, int] = Map()
        self._selected: dict[str, bool] = {}
        self.lifetimes = Lifetimes(limits, self.is_selected)
        self._waiting: list[_Waiting] = []
        self._more = anyio.Event()
        self._position = 0  # of the last answer that was recorded
        self.dropped = 0
        """Answers that were not recorded because too many were waiting; nobody selects their names."""

    def is_selected(self, name: str) -> bool:
        """Whether a policy selects the name."""
        rules = self._engine.world.policy.names
        if rules is not self._selecting or len(self._selected) >= _KNOWN_MAX:
            self._selecting = rules
            self._selected = {}
        found = self._selected.get(name)
        if found is None:
            found = self._selected[name] = bool(rules) and bool(selectors_of(name, rules))
        return found

    async def learn(self, told: Learned) -> None:
        """The datapath knows the answer, if that makes a difference. Raises CplaneError: it does not."""
        world = self._engine.world
        endpoint = self._endpoint_at(told.endpoint_ip)
        if endpoint not in world.endpoints:
            raise NotLearned(told.name)  # whoever has the address next has been told nothing
        ips = tuple(str(ip_address(ip)) for ip in told.ips if _is_address(ip))
        self.lifetimes.learn(endpoint, told.name, ips, told.ttl, self._now())
        held = world.fqdn.answers.get(endpoint, Map())
        is_selected = self.is_selected(told.name)
        if all((told.name, ip) in held for ip in ips):
            if is_selected:
                await self._engine.wait(self._position)  # who was told so first may be waiting still
            return
        if not is_selected and len(self._waiting) >= _WAITING_MAX:
            self.dropped += 1
            return
        waiting = _Waiting(Answer(endpoint, told.name, ips, told.ttl, told.server, told.time_ns))
        self._waiting.append(waiting)
        self._more.set()
        if not is_selected:
            return
        await waiting.done.wait()
        if waiting.error is not None:
            raise waiting.error
        await self._engine.wait(waiting.position)

    def turn(self, turn: Turn) -> None:
        """The engine has taken a command: of some endpoints the proxy must not believe that all is known."""
        for event in turn.events:
            match event:
                case EndpointDeleted() | NameExpired() if getattr(event, "reason", "") != TTL:
                    held = turn.before.endpoints.get(event.endpoint)
                    for address in held.addresses if held is not None else ():
                        self._forget(address)
                case _:
                    pass

    async def run(self) -> None:
        """Until cancelled."""
        self._restore()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._expire_often)
            while True:
                await self._more.wait()
                self._more = anyio.Event()
                while self._waiting:
                    some, self._waiting = self._waiting[:_TOGETHER], self._waiting[_TOGETHER:]
                    await self._record(some)

    def _endpoint_at(self, ip: str) -> int:
        """The local endpoint with that address; 0: there is none."""
        if not _is_address(ip):
            return 0
        row = self._engine.desired(LXC).get(EndpointKey(*packed(ip)))
        return 0 if row is None else int(row.lxc_id)

    def left_s(self, endpoint: int, name: str, ip: str) -> float:
        """Seconds for which the address counts, connections or not."""
        return self.lifetimes.left(Held(endpoint, name, ip), self._now())

    async def expire(self) -> None:
        """What counts no more is known to do so."""
        if self._engine.world.policy.names is not self._selecting:
            self.is_selected("")
            self.lifetimes.again()
        over = self.lifetimes.over(self._now())
        answers = self._engine.world.fqdn.answers
        gone = [one for one in over if (one.name, one.ip) not in answers.get(one.endpoint, Map())]
        self.lifetimes.forget(gone)
        over = tuple(one for one in over if one not in set(gone)) if gone else over
        if not over:
            return
        connected = await self._with_connections(over)
        dead = tuple(self.lifetimes.dead(over, connected))
        for first in range(0, len(dead), _TOGETHER):
            await self._end(dead[first : first + _TOGETHER])

    async def _with_connections(self, over: Iterable[Held]) -> set[Held]:
        asked: dict[int, dict[bytes, list[Held]]] = {}
        for one in over:
            asked.setdefault(one.endpoint, {}).setdefault(ip_address(one.ip).packed, []).append(one)
        found = await to_thread.run_sync(self._connected, asked)
        return {one for endpoint, address in found for one in asked.get(endpoint, {}).get(address, ())}

    async def _end(self, dead: Collection[tuple[Held, str]]) -> None:
        together: dict[tuple[int, str, str], list[str]] = {}
        for held, reason in dead:
            together.setdefault((held.endpoint, held.name, reason), []).append(held.ip)
        names = tuple(Ended(endpoint, name, tuple(ips), reason) for (endpoint, name, reason), ips in together.items())
        await self._engine.submit(ExpireNames(names=names), actor=ACTOR)
        self.lifetimes.forget(held for held, _ in dead)

    async def _record(self, some: list[_Waiting]) -> None:
        try:
            done = await self._engine.submit(RecordAnswers(answers=tuple(one.answer for one in some)), actor=ACTOR)
        except CplaneError as error:
            log.warning(line("answers not recorded", code=error.code, error=str(error), events=len(some)))
            for one in some:
                one.error = error
                one.done.set()
            return
        self._position = max(self._position, done.position)
        held = self._engine.world.fqdn.answers
        for one in some:
            known = held.get(one.answer.endpoint, Map())
            if not all((one.answer.name, ip) in known for ip in one.answer.ips):
                one.error = NotLearned(one.answer.name)
            one.position = done.position
            one.done.set()

    async def _expire_often(self) -> None:
        attempts = Attempts(self.expire, lambda error: log.warning(line("names not expired", error=error)))
        while True:
            await anyio.sleep(SWEEP_S)
            await attempts.once()

    def _restore(self) -> None:
        now = self._now()
        for endpoint, held in self._engine.world.fqdn.answers.items():
            for (name, ip), lookup in held.items():
                self.lifetimes.learn(endpoint, name, (ip,), lookup.ttl, now)

    def _now(self) -> float:
        return self._clock.monotonic_ns() / 1e9


class NotLearned(Unavailable):
    """An endpoint was told more addresses than it may have."""

    code = "fqdn.not_learned"

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return f"the answer for {self.name} is not recorded: its endpoint is gone, or was told too many addresses"


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
