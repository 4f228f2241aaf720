"""Where among the ports verdicts may change: what is found for one port holds for all up to the next edge."""

from collections.abc import Iterator

from cplane.domain.policy.repository import Repository
from cplane.domain.policy.resolve import named_keys
from cplane.domain.policy.rule import IcmpMatch, L4Match, PortMatch
from cplane.domain.ports import FULL_BITS, PROTOCOL_BITS, NamedPort, NamedPorts
from cplane.domain.verdict import Direction


def port_edges(
    repository: Repository, subject: int, direction: Direction, protocol: int, ports: NamedPorts
) -> tuple[int, ...]:
    """Ports (or types of messages) at which verdicts may change, sorted; between two of them all are judged alike.

    `ports` are all named ports that there are.
    """
    found: set[int] = set()
    for resolved in repository.about(subject):
        for one in resolved.contributions:
            if one.direction == direction:
                for key in (*one.keys, *named_keys(one.named, ports)):
                    if key.protocol == protocol and key.bits > PROTOCOL_BITS:
                        found.update((key.port, key.port + (1 << FULL_BITS - key.bits)))
        for term in resolved.rule.terms:  # also those that select nobody may be the nearest
            for match in term.l4 or ():
                for first, last in _ranges(match, ports):
                    found.update((first, last + 1))
    return tuple(sorted(found))


def _ranges(match: L4Match, ports: NamedPorts) -> Iterator[tuple[int, int]]:
    match match:
        case PortMatch():
            yield match.first, match.last
        case IcmpMatch():
            yield match.type, match.type
        case NamedPort():
            yield from ((number, number) for held, number in ports if held.name == match.name)
