"""Traffic as people write it: `80/TCP`, `http/TCP`, `8/ICMP`."""

from typing import NamedTuple

from cplane.domain.policy.document import did_you_mean
from cplane.domain.ports import PORT_MAX
from cplane.k8s.probes import ICMP_PROTOCOLS, ICMP_TYPE_MAX, PROTOCOLS, BadProbe


class Asked(NamedTuple):
    """The fields of a probe that say which traffic is meant."""

    protocol: str
    port: int | str | None = None
    icmp_type: int | None = None

    def __str__(self) -> str:
        number = self.port if self.icmp_type is None else self.icmp_type
        return self.protocol if number is None else f"{number}/{self.protocol}"


def parse_port(text: str) -> Asked:
    """The traffic that a text names; without a protocol it is TCP. Raises BadProbe."""
    head, slash, name = text.partition("/")
    if not slash and head.upper() in PROTOCOLS:  # `ICMP`, or the only port of a service that has this protocol
        head, name = "", head
    name = (name or "TCP").upper()
    protocol = PROTOCOLS.get(name)
    if protocol is None:
        advice = did_you_mean(name, PROTOCOLS)
        raise BadProbe(f"{text!r}: unknown protocol {name!r}{advice}; write 80/TCP, http/TCP or 8/ICMP")
    plain = head.isascii() and head.isdecimal() and len(head) <= 5
    if protocol in ICMP_PROTOCOLS:
        if head and not plain:
            raise BadProbe(f"{text!r}: a type of {name} is a number; write {ICMP_PROTOCOLS[protocol]}/{name}")
        return Asked(name, icmp_type=_within(text, int(head), 0, ICMP_TYPE_MAX) if head else None)
    return Asked(name, _within(text, int(head), 1, PORT_MAX) if plain else head or None)


def _within(text: str, number: int, low: int, high: int) -> int:
    if not low <= number <= high:
        raise BadProbe(f"{text!r}: {number} is not {low}..{high}")
    return number
