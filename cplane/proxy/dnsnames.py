"""Which answers the agent has been told of, so that most answers need not wait for it."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple

KEPT_MAX: Final = 65_536
"""Names of endpoints; the one that was answered longest ago makes room. If it comes again, the agent is told again."""
_REFRESHED: Final = 4
"""The agent is told again after this part of the lifetime, so that it knows what is still in use."""


class Told(NamedTuple):
    """What an endpoint was answered: as channel.Learned."""

    endpoint: str
    name: str
    ips: tuple[str, ...]
    ttl: int
    server: str


class _Kept:
    """Addresses with the time (monotonic, s) until which they count, and until which the agent knows that they do."""

    __slots__ = ("server", "told", "ttl", "until")

    def __init__(self) -> None:
        self.until: dict[str, float] = {}
        self.told: dict[str, float] = {}
        self.ttl, self.server = 0, ""


class Names:
    """Answers that count. Times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()

    def learn(self, told: Told, now: float) -> tuple[bool, bool]:
        """Whether an address is new to the agent; whether it is to be told, if only to refresh what it knows."""
        key = (told.endpoint, told.name)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = _Kept()
            if len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        kept.ttl, kept.server = told.ttl, told.server
        is_new = is_due = False
        until = now + _lifetime(told.ttl)
        for ip in told.ips:
            known = kept.told.get(ip, 0.0)
            is_new = is_new or known <= now
            is_due = is_due or until - known >= max(1.0, told.ttl / _REFRESHED)
            kept.until[ip] = max(until, kept.until.get(ip, 0.0))
        return is_new, is_due

    def confirm(self, told: Told, now: float) -> None:
        """The agent knows these addresses; it was told at `now`, or later."""
        kept = self._kept.get((told.endpoint, told.name))
        if kept is not None:
            kept.told.update(dict.fromkeys(told.ips, now + _lifetime(told.ttl)))

    def forget(self, endpoint: str) -> None:
        """What the endpoint was answered counts no more, or it is another endpoint."""
        for key in [key for key in self._kept if key[0] == endpoint]:
            del self._kept[key]

    def forget_all(self) -> None:
        """Another agent is there, which knows nothing."""
        for kept in self._kept.values():
            kept.told.clear()

    def untold(self, now: float) -> Iterator[Told]:
        """All that counts and that the agent does not know; names change while it is read."""
        for (endpoint, name), kept in list(self._kept.items()):
            left: dict[int, list[str]] = {}
            for ip, until in kept.until.items():
                if until > now and ip not in kept.told:
                    left.setdefault(max(1, int(until - now)), []).append(ip)
            for ttl, ips in left.items():
                yield Told(endpoint, name, tuple(ips), ttl, kept.server)

    def expire(self, now: float) -> None:
        """What counts no more is forgotten."""
        for key, kept in list(self._kept.items()):
            for ip in [ip for ip, until in kept.until.items() if until <= now]:
                del kept.until[ip]
                kept.told.pop(ip, None)
            if not kept.until:
                del self._kept[key]


def _lifetime(ttl: int) -> int:
    return max(1, ttl)
