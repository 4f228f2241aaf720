"""How long the addresses of names count: as long as an answer said, and as long as a connection lives that began then.

Times are seconds of one clock, which the caller has. An address is *over* when its time is; it then counts on while a
connection to it is open, unless too many do so. Addresses of a name beyond the limit are over at once, the oldest
first, and connections to them go on. Source: Cilium's DNS cache, and its zombies.
"""

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

TTL: Final = "ttl"
LIMIT: Final = "limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`deferred`: addresses of an endpoint that count by their connections alone.

    Names that nobody selects allow nothing; they are kept for `unselected_s`, so that the log need not say each time
    that they came and went.
    """

    min_ttl_s: int = 0
    grace_s: int = 0
    ips_per_name: int = 1000
    deferred: int = 10_000
    unselected_s: int = 3600


class Held(NamedTuple):
    """An address that an endpoint knows by a name."""

    endpoint: int
    name: str
    ip: str


class _Seen(NamedTuple):
    at: float
    until: float


class Lifetimes:
    """All that endpoints were told, with the time at which it was told last."""

    def __init__(self, limits: Limits, selected: Callable[[str], bool]) -> None:
        self._limits, self._selected = limits, selected
        self._seen: dict[Held, _Seen] = {}
        self._of_name: dict[tuple[int, str], dict[str, None]] = {}  # the address that was told longest ago is first
        self._times: list[tuple[float, Held]] = []  # a heap: when to look at each again
        self._over: dict[Held, str] = {}  # with the reason, longest ago first

    def __len__(self) -> int:
        return len(self._seen)

    def learn(self, endpoint: int, name: str, ips: Iterable[str], ttl: int, now: float) -> None:
        """The endpoint was told so now."""
        ips = tuple(ips)
        of_name = self._of_name.setdefault((endpoint, name), {})
        for ip in ips:
            held = Held(endpoint, name, ip)
            before, until = self._seen.get(held), now + self._lifetime(ttl)
            if before is not None and held not in self._over:
                until = max(until, before.until)  # an answer with a shorter time does not take any away
            seen = self._seen[held] = _Seen(now, until)
            if before is None or held in self._over:
                heapq.heappush(self._times, (self._until(name, seen), held))
            self._over.pop(held, None)
            of_name.pop(ip, None)
            of_name[ip] = None
        for ip in tuple(of_name)[: max(0, len(of_name) - self._limits.ips_per_name)]:
            self._over.setdefault(Held(endpoint, name, ip), LIMIT)

    def forget(self, gone: Iterable[Held]) -> None:
        """These do not count any more."""
        for held in gone:
            self._seen.pop(held, None)
            self._over.pop(held, None)
            of_name = self._of_name.get((held.endpoint, held.name))
            if of_name is not None:
                of_name.pop(held.ip, None)
                if not of_name:
                    del self._of_name[held.endpoint, held.name]

    def again(self) -> None:
        """Others are selected than before."""
        self._times = [(self._until(one.name, seen), one) for one, seen in self._seen.items()]
        heapq.heapify(self._times)

    def over(self, now: float) -> tuple[Held, ...]:
        """Those whose time is over, the one that has been longest first."""
        while self._times and self._times[0][0] <= now:
            _, held = heapq.heappop(self._times)
            seen = self._seen.get(held)
            if seen is None or held in self._over:
                continue
            until = self._until(held.name, seen)
            if until > now:
                heapq.heappush(self._times, (until, held))
            else:
                self._over[held] = TTL
        return tuple(self._over)

    def dead(self, over: Iterable[Held], connected: Collection[Held]) -> Iterator[tuple[Held, str]]:
        """Those of `over` that count no more, with the reason; of an endpoint that has too many, the first ones."""
        kept: dict[int, list[Held]] = {}
        for held in over:
            reason = self._over.get(held)
            if reason is None:
                continue
            if held in connected:
                kept.setdefault(held.endpoint, []).append(held)
            else:
                yield held, reason
        for some in kept.values():
            yield from ((held, LIMIT) for held in some[: max(0, len(some) - self._limits.deferred)])

    def left(self, held: Held, now: float) -> float:
        """Seconds until its time is over, not below 0; 0 as well for what counts by its connections alone."""
        seen = self._seen.get(held)
        if seen is None or held in self._over:
            return 0
        return max(0, seen.until - now)

    def _lifetime(self, ttl: int) -> int:
        return max(ttl, self._limits.min_ttl_s) + self._limits.grace_s

    def _until(self, name: str, seen: _Seen) -> float:
        return seen.until if self._selected(name) else max(seen.until, seen.at + self._limits.unselected_s)
