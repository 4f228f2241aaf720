"""What an endpoint was told of an address by DNS, as the log says it: why a rule by name selects it, or does not."""

from collections.abc import Iterator
from typing import Final

import msgspec

from cplane.deciders.fqdn import selectors_of
from cplane.domain.policy.dns import DnsRule
from cplane.events.envelope import Envelope
from cplane.events.fqdn import NameExpired, NameResolved
from cplane.timetravel.course import read_at
from cplane.timetravel.history import History
from cplane.timetravel.intent import Author
from cplane.timetravel.ledger import Ledger
from cplane.timetravel.verdicts import End
from cplane.timetravel.wanted import Wanted
from cplane.timetravel.when import instant

SEARCHED_MAX: Final = 20_000
"""Events about names that are looked at for an address, the newest first."""

_AT_ONCE: Final = 1_000
_SHOWN_MAX: Final = 8
_WHY: Final = {
    "ttl": "no answer had it any more, and it had no open connection",
    "limit": "the name had more addresses than may count (dns.ips_per_name_max, dns.deferred_max)",
    "forgotten": "somebody had it forgotten",
}


class NameShown(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is known of an address and names, and the event that says so; null: that there is none."""

    text: str
    event: Author | None


def names_shown(
    history: History, source: End, destination: End, rules: tuple[DnsRule, ...], ledger: Ledger
) -> Iterator[NameShown]:
    """What the source was told of the destination's address; nothing where it has no rule by name and knows none.

    `rules`: selectors of names in policies about the source. The ledger is at the moment that is asked about.
    """
    ip = destination.address
    if not source.endpoint or destination.endpoint or not ip:
        return
    own = ledger.told().get(source.endpoint, {})
    known = sorted(name for name, one in own if one == ip)
    if not known and not rules:
        return
    for name in known[:_SHOWN_MAX]:
        yield _told(history, source, ip, name, rules, ledger)
    if not known:
        yield _missing(history, source, ip, ledger.position)
        yield from _others(ledger, ip, rules)


def _told(history: History, source: End, ip: str, name: str, rules: tuple[DnsRule, ...], ledger: Ledger) -> NameShown:
    lookup = ledger.told()[source.endpoint][name, ip]
    found = selectors_of(name, rules)
    selected = f"toFQDNs {', '.join(sorted(found))} of its policies selects it" if found else _NOBODY
    by = f" by {lookup.server}" if lookup.server else ""
    text = f"{source.name} was told {ip} for {name}{by}, to count for {lookup.ttl} s: {selected}"
    about = history.find(Wanted(object=f"name {name}", to=ledger.position))
    for entry in map(history.entry, reversed([one for one in about if one > history.start])):
        if isinstance(entry.event, NameResolved) and entry.event.endpoint == source.endpoint and ip in entry.event.ips:
            return NameShown(text=text, event=Author.of(entry))
    return NameShown(text=text, event=None)


_NOBODY: Final = "no toFQDNs of its policies selects that name"


def _missing(history: History, source: End, ip: str, position: int) -> NameShown:
    positions = history.find(Wanted(kind="name", to=position, last=SEARCHED_MAX))
    positions = [one for one in positions if one > history.start]
    for entry in _newest_first(history, positions):
        event = entry.event
        if not isinstance(event, NameExpired) or event.endpoint != source.endpoint or ip not in event.ips:
            continue
        why = _WHY.get(event.reason, event.reason)
        text = f"{ip} was told to {source.name} for {event.name} and expired at {instant(entry.recorded_at_ns)}: {why}"
        return NameShown(text=text, event=Author.of(entry))
    behind = positions[0] - 1 if len(positions) == SEARCHED_MAX else history.start
    since = f" behind position {behind}" if behind else ""
    text = (
        f"{ip} was never in an answer to {source.name} that the DNS proxy saw{since}, so none makes toFQDNs select it"
    )
    return NameShown(text=text, event=None)


def _others(ledger: Ledger, ip: str, rules: tuple[DnsRule, ...]) -> Iterator[NameShown]:
    """An address has one identity, whoever was told of it."""
    for endpoint, held in ledger.told().items():
        for name, one in held:
            if one == ip and selectors_of(name, rules):
                whose = ledger.pod_of(endpoint) or f"endpoint {endpoint}"
                yield NameShown(
                    text=f"{whose} was told {ip} for {name}, which makes it so for all of this node", event=None
                )
                return


def _newest_first(history: History, positions: list[int]) -> Iterator[Envelope]:
    for end in range(len(positions), 0, -_AT_ONCE):
        some = positions[max(0, end - _AT_ONCE) : end]
        yield from reversed(list(read_at(history, some)))
