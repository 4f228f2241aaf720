"""Ports and ICMP types as they are written."""

import re
from collections.abc import Mapping
from typing import Final

from cplane.domain.policy.document import Fields, Place, did_you_mean, shown
from cplane.domain.policy.peers import UNSUPPORTED
from cplane.domain.policy.rule import IcmpMatch, PortMatch
from cplane.domain.ports import PORT_MAX, Protocol

PORTS_MAX: Final = 40  # of one element of toPorts
ICMP_FIELDS_MAX: Final = 40  # of one element of icmps

_DENY_FIELDS: Final = Fields(frozenset({"ports"}))
_ALLOW_FIELDS: Final = Fields(
    frozenset({"ports"}),
    dict.fromkeys(("rules", "listener", "serverNames", "terminatingTLS", "originatingTLS"), UNSUPPORTED),
)
_PORT_FIELDS: Final = Fields(frozenset({"port", "endPort", "protocol"}))
_ICMP_FIELDS: Final = Fields(frozenset({"fields"}))
_ICMP_FIELD_FIELDS: Final = Fields(frozenset({"family", "type"}))

_PROTOCOLS: Final = {p.name: p for p in (Protocol.TCP, Protocol.UDP, Protocol.SCTP, Protocol.ANY)}
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


def port_rules(place: Place, *, deny: bool) -> list[PortMatch]:
    """The ports of a `toPorts` list; a list whose elements have no ports matches no traffic."""
    found: list[PortMatch] = []
    for element in place.items():
        fields = element.fields(_DENY_FIELDS if deny else _ALLOW_FIELDS)
        if fields is None or "ports" not in fields:
            continue
        ports = list(fields["ports"].items())
        if len(ports) > PORTS_MAX:
            fields["ports"].refuse(
                f"{len(ports)} ports, at most {PORTS_MAX} can stand here: split the rule, or use endPort"
            )
        found.extend(match for one in ports if (match := _port(one)) is not None)
    return found


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


def _port(place: Place) -> PortMatch | None:
    fields = place.fields(_PORT_FIELDS)
    if fields is None:
        return None
    protocol = _protocol(fields["protocol"]) if "protocol" in fields else Protocol.ANY
    first = _port_number(place, fields)
    last = fields["endPort"].integer(0, PORT_MAX) if "endPort" in fields else 0
    if protocol is None or first is None or last is None:
        return None
    if last and last < first:
        fields["endPort"].refuse(f"{last} is below port {first}: write the range upwards, or leave endPort out")
        return None
    if not first and not last:
        return PortMatch(protocol)  # port 0 is every port
    return PortMatch(protocol, first, last or first)


def _port_number(place: Place, fields: dict[str, Place]) -> int | None:
    if "port" not in fields:
        place.refuse('port is missing: write a number as a string, or "0" for all ports')
        return None
    text = fields["port"].text()
    if text is None:
        return None
    if _NUMBER.fullmatch(text) and int(text) <= PORT_MAX:
        return int(text)
    if _SERVICE_NAME.fullmatch(text):
        fields["port"].refuse(f"named port {shown(text)}: {UNSUPPORTED}; write its number")
    else:
        fields["port"].refuse(f"{shown(text)} is not a port: write a number from 0 to {PORT_MAX} without leading zeros")
    return None


def _protocol(place: Place) -> Protocol | None:
    text = place.text()
    if text is None:
        return None
    if not text:
        return Protocol.ANY
    protocol = _PROTOCOLS.get(text.upper())
    if protocol is None:
        if text.upper() in ("VRRP", "IGMP"):
            place.refuse(f"protocol {text}: {UNSUPPORTED}")
        elif text.upper().startswith("ICMP"):
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
