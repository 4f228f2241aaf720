"""Names that endpoints were told addresses of, over gRPC."""

from collections.abc import Iterator
from ipaddress import ip_address

from cplane.api.ports import Agent, Engine
from cplane.deciders.fqdn import Ended, ExpireNames, Lookup
from cplane.domain import fqdn
from cplane.domain.policy.dns import DnsRule
from cplane.errors import Rejected
from cplane.pb.cplane.admin import v1 as pb
from cplane.transport.calls import caller

FORGOTTEN = "forgotten"


class BadPattern(Rejected):
    """What was given is no pattern of names."""

    code = "fqdn.bad_pattern"

    def __init__(self, pattern: str, reason: str) -> None:
        self.pattern, self.reason = pattern, reason

    def __str__(self) -> str:
        return f"pattern: {self.pattern!r}: {self.reason}"


class FqdnService(pb.FqdnServiceBase):
    """Shows and forgets names."""

    def __init__(self, engine: Engine, agent: Agent) -> None:
        self._engine, self._agent = engine, agent

    async def list(self, message: pb.ListNamesRequest) -> pb.ListNamesResponse:
        """By endpoint and name. Raises BadPattern."""
        world = self._engine.world
        together: dict[tuple[int, str, Lookup, int, bool], list[str]] = {}
        now_ns = self._agent.clock.now_ns()
        for endpoint, name, ip, lookup in self._chosen(message.endpoint, message.pattern):
            left_s = self._agent.name_left_s(endpoint, name, ip)
            key = (endpoint, name, lookup, int(left_s), left_s > 0)
            together.setdefault(key, []).append(ip)
        names = [
            pb.Name(
                endpoint=endpoint,
                name=name,
                ips=sorted(ips, key=_in_order),
                ttl_s=lookup.ttl,
                source="lookup" if counts else "connection",
                expires_at_ns=now_ns + left_s * 1_000_000_000 if counts else 0,
                resolved_at_ns=lookup.resolved_at_ns,
                server=lookup.server,
                selected=any(rule.matches(name) for rule in world.policy.names),
            )
            for (endpoint, name, lookup, left_s, counts), ips in sorted(together.items())
        ]
        return pb.ListNamesResponse(position=world.position, names=names)

    async def selectors(self, message: pb.ListSelectorsRequest) -> pb.ListSelectorsResponse:
        """Every selector that a policy has, in order."""
        world = self._engine.world
        state, found = world.fqdn, []
        for rule, policies in sorted(world.policy.names.items(), key=lambda pair: str(pair[0])):
            names = {name for held in state.named.values() for name in held if rule.matches(name)}
            ips = [ip for ip, held in state.named.items() if not names.isdisjoint(held)]
            found.append(
                pb.NameSelector(
                    selector=str(rule),
                    expression=fqdn.expression_of(rule.pattern or rule.name),
                    policies=policies,
                    names=sorted(names),
                    ips=sorted(ips, key=_in_order),
                    identities=sorted({state.numbers[ip] for ip in ips if ip in state.numbers}),
                )
            )
        return pb.ListSelectorsResponse(position=world.position, selectors=found)

    async def forget(self, message: pb.ForgetNamesRequest) -> pb.ForgetNamesResponse:
        """Those that are chosen are forgotten. Raises BadPattern."""
        together: dict[tuple[int, str], list[str]] = {}
        for endpoint, name, ip, _ in self._chosen(message.endpoint, message.pattern):
            together.setdefault((endpoint, name), []).append(ip)
        ended = tuple(Ended(endpoint, name, tuple(ips), FORGOTTEN) for (endpoint, name), ips in together.items())
        committed = await self._engine.submit(ExpireNames(names=ended), actor=caller())
        return pb.ForgetNamesResponse(position=committed.position, addresses=sum(len(one.ips) for one in ended))

    def _chosen(self, endpoint: int, pattern: str) -> Iterator[tuple[int, str, str, Lookup]]:
        if pattern and (problem := fqdn.pattern_problem(pattern)):
            raise BadPattern(pattern, problem)
        rule = DnsRule("", pattern.lower()) if pattern else None
        for number, held in self._engine.world.fqdn.answers.items():
            if endpoint not in (0, number):
                continue
            for (name, ip), lookup in held.items():
                if rule is None or rule.matches(name):
                    yield number, name, ip, lookup


def _in_order(text: str) -> tuple[int, int]:
    address = ip_address(text)
    return address.version, int(address)
