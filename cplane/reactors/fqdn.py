"""An address was resolved from a name that policies select: it has an identity with labels that say so."""

from collections.abc import Iterable

from cplane.deciders.fqdn import SettleAddresses
from cplane.deciders.world import Command, World
from cplane.domain.policy.dns import DnsRule
from cplane.events.catalog import Event
from cplane.events.endpoint import EndpointDeleted
from cplane.events.fqdn import NameExpired, NameResolved
from cplane.events.policy import PolicyDeleted, PolicyUpserted


def react(event: Event, before: World, after: World) -> tuple[Command, ...]:
    """A settlement for the addresses whose names, or the policies that select these, have changed.

    Prefixes around them are followed where prefixes are: reactors.policy.
    """
    match event:
        case NameResolved() if after.policy.names:
            return _settled(event.ips)
        case NameExpired():
            return _settled(ip for ip in event.ips if ip in after.fqdn.numbers)
        case EndpointDeleted():
            held = before.fqdn.answers.get(event.endpoint)
            return () if held is None else _settled(ip for _, ip in held if ip in after.fqdn.numbers)
        case PolicyUpserted() | PolicyDeleted() if before.policy.names != after.policy.names:
            changed = [one for one in {**before.policy.names, **after.policy.names} if _differs(one, before, after)]
            return _settled(_selected(changed, after))
        case _:
            return ()


def _differs(rule: DnsRule, before: World, after: World) -> bool:
    return (rule in before.policy.names) != (rule in after.policy.names)


def _selected(rules: list[DnsRule], world: World) -> Iterable[str]:
    """The addresses that have a name which one of the rules selects."""
    if not rules:
        return ()
    known = {name for names in world.fqdn.named.values() for name in names}
    wanted = {name for name in known if any(rule.matches(name) for rule in rules)}
    return (ip for ip, names in world.fqdn.named.items() if any(name in wanted for name in names))


def _settled(addresses: Iterable[str]) -> tuple[Command, ...]:
    found = tuple(sorted(set(addresses)))
    return (SettleAddresses(addresses=found),) if found else ()
