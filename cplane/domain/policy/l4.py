"""Ports and ICMP types as they are written."""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from cplane.domain.policy.document import Fields, Place, did_you_mean, shown
from cplane.domain.policy.redirect import Redirect, read_redirect
from cplane.domain.policy.rule import IcmpMatch, L4Match, PortMatch
from cplane.domain.ports import PORT_MAX, PORT_PROTOCOLS, PORTLESS_PROTOCOLS, NamedPort, Protocol
from cplane.domain.verdict import Direction

PORTS_MAX: Final = 40  # of one element of toPorts
ICMP_FIELDS_MAX: Final = 40  # of one element of icmps
PORT_NAME_MAX: Final = 15

_REDIRECT_FIELDS: Final = ("rules", "listener", "serverNames", "terminatingTLS", "originatingTLS")
_DENY_FIELDS: Final = Fields(
    frozenset({"ports"}),
    dict.fromkeys(_REDIRECT_FIELDS, "a deny rule drops packets before anybody could read them: remove it"),
)
_ALLOW_FIELDS: Final = Fields(frozenset({"ports", *_REDIRECT_FIELDS}))
_PORT_FIELDS: Final = Fields(frozenset({"port", "endPort", "protocol"}))
_ICMP_FIELDS: Final = Fields(frozenset({"fields"}))
_ICMP_FIELD_FIELDS: Final = Fields(frozenset({"family", "type"}))

_PROTOCOLS: Final = {p.name: p for p in (*PORT_PROTOCOLS, *PORTLESS_PROTOCOLS, Protocol.ANY)}
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,4}")
_SERVICE_NAME: Final = re.compile(r"(?=.{1,15}$)(?=.*[A-Za-z])[A-Za-z0-9]+(-[A-Za-z0-9]+)*")

_ICMP_V4_TYPES: Final = {
    "EchoReply": 0,
    "DestinationUnreachable": 3,
    "Redirect": 5,
    "Echo": 8,
    "EchoRequest": 8,
    "RouterAdvertisement": 9,
    "RouterSelection": 10,
    "TimeExceeded": 11,
    "ParameterProblem": 12,
    "Timestamp": 13,
    "TimestampReply": 14,
    "Photuris": 40,
    "ExtendedEchoRequest": 42,
    "ExtendedEchoReply": 43,
}
_ICMP_V6_TYPES: Final = {
    "DestinationUnreachable": 1,
    "PacketTooBig": 2,
    "TimeExceeded": 3,
    "ParameterProblem": 4,
    "EchoRequest": 128,
    "EchoReply": 129,
    "MulticastListenerQuery": 130,
    "MulticastListenerReport": 131,
    "MulticastListenerDone": 132,
    "RouterSolicitation": 133,
    "RouterAdvertisement": 134,
    "NeighborSolicitation": 135,
    "NeighborAdvertisement": 136,
    "RedirectMessage": 137,
    "RouterRenumbering": 138,
    "ICMPNodeInformationQuery": 139,
    "ICMPNodeInformationResponse": 140,
    "InverseNeighborDiscoverySolicitation": 141,
    "InverseNeighborDiscoveryAdvertisement": 142,
    "HomeAgentAddressDiscoveryRequest": 144,
    "HomeAgentAddressDiscoveryReply": 145,
    "MobilePrefixSolicitation": 146,
    "MobilePrefixAdvertisement": 147,
    "DuplicateAddressRequestCodeSuffix": 157,
    "DuplicateAddressConfirmationCodeSuffix": 158,
    "ExtendedEchoRequest": 160,
    "ExtendedEchoReply": 161,
}
_FAMILIES: Final[Mapping[str, tuple[Protocol, Mapping[str, int]]]] = {
    "IPv4": (Protocol.ICMP, _ICMP_V4_TYPES),
    "IPv6": (Protocol.ICMPV6, _ICMP_V6_TYPES),
}


class PortRule(NamedTuple):
    """An element of `toPorts`; without ports it matches no traffic."""

    path: str
    matches: tuple[L4Match, ...]
    redirect: Redirect | None


def port_rules(place: Place, direction: Direction, *, deny: bool) -> list[PortRule]:
    """The elements of a `toPorts` list."""
    found = (_port_rule(element, direction, deny=deny) for element in place.items())
    return [one for one in found if one is not None]


def _port_rule(place: Place, direction: Direction, *, deny: bool) -> PortRule | None:
    fields = place.fields(_DENY_FIELDS if deny else _ALLOW_FIELDS)
    if fields is None:
        return None
    redirect = read_redirect(place, fields, ingress=direction is Direction.INGRESS)
    places = list(fields["ports"].items()) if "ports" in fields else []
    if len(places) > PORTS_MAX:
        fields["ports"].refuse(
            f"{len(places)} ports, at most {PORTS_MAX} can stand here: split the rule, or use endPort"
        )
    matches = [(one, match) for one in places if (match := _port(one)) is not None]
    if redirect is not None and redirect.rules is not None:
        _check_redirected(place, redirect.rules.protocol, matches, given=bool(places))
    return PortRule(place.path, tuple(dict.fromkeys(match for _, match in matches)), redirect)


def _check_redirected(
    place: Place, protocol: str, matches: list[tuple[Place, PortMatch | NamedPort]], *, given: bool
) -> None:
    """Rules of a protocol need ports over which it can be spoken."""
    dns = protocol == "dns"
    if dns and not given:
        place.refuse("DNS rules need ports: write port 53, protocol ANY")
    for one, match in matches:
        if not dns and match.protocol is not Protocol.TCP:
            one.refuse(f"{protocol} rules are about TCP, not {match.protocol.name}: write protocol TCP")
        if isinstance(match, PortMatch):
            if match.first == 0:
                one.refuse(f"{protocol} rules need a port that is not 0")
            elif dns and match.first != match.last:
                one.refuse("DNS rules cannot have a range of ports: write an element for each port")


def icmp_rules(place: Place) -> list[IcmpMatch]:
    """The message types of an `icmps` list."""
    found: list[IcmpMatch] = []
    for element in place.items():
        fields = element.fields(_ICMP_FIELDS)
        if fields is None or "fields" not in fields:
            continue
        types = list(fields["fields"].items())
        if len(types) > ICMP_FIELDS_MAX:
            fields["fields"].refuse(f"{len(types)} fields, at most {ICMP_FIELDS_MAX} can stand here: split the rule")
        found.extend(match for one in types if (match := _icmp(one)) is not None)
    return found


def _port(place: Place) -> PortMatch | NamedPort | None:
    fields = place.fields(_PORT_FIELDS)
    if fields is None:
        return None
    protocol = _protocol(fields["protocol"]) if "protocol" in fields else Protocol.ANY
    first = _port_number(place, fields)
    last = fields["endPort"].integer(0, PORT_MAX) if "endPort" in fields else 0
    if protocol is None or first is None or last is None:
        return None
    if protocol in PORTLESS_PROTOCOLS:
        if first or last:
            fields["port"].refuse(f'{protocol.name} has no ports: write port "0"')
        return PortMatch(protocol)
    if isinstance(first, str):
        return NamedPort(protocol, first)
    if not first and not last:
        return PortMatch(protocol)  # port 0 is every port
    return PortMatch(protocol, first, max(first, last))  # a range that ends below its start is its start, as upstream


def _port_number(place: Place, fields: dict[str, Place]) -> int | str | None:
    if "port" not in fields:
        place.refuse('port is missing: write a number as a string, or "0" for all ports')
        return None
    text = fields["port"].text()
    if text is None:
        return None
    if _NUMBER.fullmatch(text) and int(text) <= PORT_MAX:
        return int(text)
    if is_port_name(text):
        return text.lower()
    fields["port"].refuse(
        f"{shown(text)} is not a port: write a number from 0 to {PORT_MAX} without leading zeros, or a container "
        f"port's name, at most {PORT_NAME_MAX} letters, digits and single inner '-' with a letter among them"
    )
    return None


def is_port_name(text: str) -> bool:
    """Whether it is a name that a container port may have (IANA_SVC_NAME)."""
    return _SERVICE_NAME.fullmatch(text) is not None


def _protocol(place: Place) -> Protocol | None:
    text = place.text()
    if text is None:
        return None
    if not text:
        return Protocol.ANY
    protocol = _PROTOCOLS.get(text.upper())
    if protocol is None:
        if text.upper().startswith("ICMP"):
            place.refuse(f"protocol {shown(text)} has no ports: use icmps in place of toPorts")
        else:
            place.refuse(
                f"unknown protocol {shown(text)}{did_you_mean(text, _PROTOCOLS)}; protocols are {', '.join(_PROTOCOLS)}"
            )
    return protocol


def _icmp(place: Place) -> IcmpMatch | None:
    fields = place.fields(_ICMP_FIELD_FIELDS)
    if fields is None:
        return None
    family = fields["family"].text() if "family" in fields else "IPv4"
    if family is not None and family not in _FAMILIES:
        if family:
            fields["family"].refuse(f"unknown family {shown(family)}; families are {', '.join(_FAMILIES)}")
            return None
        family = "IPv4"
    if "type" not in fields:
        place.refuse("type is missing: write a number from 0 to 255, or a name such as EchoRequest")
        return None
    if family is None:
        return None
    protocol, names = _FAMILIES[family]
    number = _icmp_type(fields["type"], family, names)
    return IcmpMatch(protocol, number) if number is not None else None


def _icmp_type(place: Place, family: str, names: Mapping[str, int]) -> int | None:
    value = place.value
    if not isinstance(value, str):
        return place.integer(0, 255)
    if value in names:
        return names[value]
    if _NUMBER.fullmatch(value) and int(value) <= 255:
        return int(value)
    place.refuse(
        f"unknown ICMP type {shown(value)} of family {family}{did_you_mean(value, names)}; "
        f"write its number from 0 to 255 or its name"
    )
    return None
