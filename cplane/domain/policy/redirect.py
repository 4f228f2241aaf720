"""What a proxy has to do with the traffic of an element of `toPorts`: check requests, end TLS, run a listener."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from cplane.domain.policy.dns import DnsRule, read_dns
from cplane.domain.policy.document import Fields, Place, did_you_mean, shown
from cplane.domain.policy.http import HttpRequest, HttpRule, Secret, read_http, read_secret
from cplane.domain.policy.kafka import KafkaRequest, KafkaRule, read_kafka

T = TypeVar("T")
Request = HttpRequest | KafkaRequest | str
"""What is asked over a connection: a string is a DNS name."""

SERVER_NAME_MAX: Final = 255
PRIORITY_MAX: Final = 100
_PRIORITIES: Final = {"http": 101, "kafka": 106, "l7proto": 111, "tls": 116, "dns": 121, "listener": 126}

_RULE_FIELDS: Final = Fields(frozenset({"http", "kafka", "dns", "l7proto", "l7"}))
_TLS_FIELDS: Final = Fields(frozenset({"secret", "trustedCA", "certificate", "privateKey"}))
_LISTENER_FIELDS: Final = Fields(frozenset({"envoyConfig", "name", "priority"}))
_CONFIG_FIELDS: Final = Fields(frozenset({"kind", "name"}))
_CONFIG_KINDS: Final = ("CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig")
_SERVER_NAME: Final = re.compile(r"(\*?\*\.)?[-a-zA-Z0-9_]+(\.[-a-zA-Z0-9_]+)*\.?")
_LISTS: Final = ("http", "kafka", "dns")


class ParserRule(NamedTuple):
    """What another parser than ours is told: pairs of name and value, sorted."""

    fields: tuple[tuple[str, str], ...]


class L7Rules(NamedTuple):
    """Requests of one protocol that may pass: those that any of `rules` matches. A parser without rules: all."""

    protocol: str  # http, kafka, dns, or the name of another parser
    rules: tuple[HttpRule | KafkaRule | DnsRule | ParserRule, ...] = ()

    def allow(self, request: Request) -> bool:
        """Whether the request may pass; one of another protocol may not.

        A Kafka request that names no topic passes where one with a rule's topic would: its answer has no others.
        """
        if isinstance(request, HttpRequest):
            return any(isinstance(one, HttpRule) and one.matches(request) for one in self.rules)
        if isinstance(request, str):
            return any(isinstance(one, DnsRule) and one.matches(request) for one in self.rules)
        found = [one for one in self.rules if isinstance(one, KafkaRule)]
        if not request.topics:
            return any(one.matches(request, one.topic or None) for one in found)
        return all(any(one.matches(request, topic) for one in found) for topic in request.topics)


class Tls(NamedTuple):
    """Where certificates come from: a secret, and the names of its items."""

    secret: Secret
    trusted_ca: str = ""
    certificate: str = ""
    private_key: str = ""


class Listener(NamedTuple):
    """A listener of an Envoy configuration; `priority` 1 is the strongest, 0: not said."""

    kind: str
    config: str
    name: str
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Redirect:
    """At least one of the fields is not empty."""

    rules: L7Rules | None = None
    listener: Listener | None = None
    server_names: tuple[str, ...] = ()
    terminating: Tls | None = None
    originating: Tls | None = None

    @property
    def priority(self) -> int:
        """Which of several redirects of a port has the traffic: the smallest number, 1 to 126."""
        if self.listener is not None:
            return self.listener.priority or _PRIORITIES["listener"]
        if self.rules is not None:
            return _PRIORITIES.get(self.rules.protocol, _PRIORITIES["l7proto"])
        return _PRIORITIES["tls"]

    @property
    def parser(self) -> str:
        """Who reads the traffic; two of one port and peer must agree."""
        if self.listener is not None:
            return f"{self.listener.kind}/{self.listener.config}/{self.listener.name}"
        return self.rules.protocol if self.rules is not None else "tls"

    def is_heeded_by(self, parser: str) -> bool:
        """Whether the proxy that has the traffic lets pass what this does; one of another protocol refuses all of it.

        Who reads HTTP also tells connections over TLS apart by their server names.
        """
        return self.parser == parser or (self.parser == "tls" and parser == "http")

    def __str__(self) -> str:
        return self.parser


def read_redirect(place: Place, fields: dict[str, Place], *, ingress: bool) -> Redirect | None:
    """What the element asks of a proxy; None: nothing. `fields` are those of the element."""
    rules = _read_rules(fields["rules"]) if "rules" in fields else None
    listener = _read_listener(fields["listener"]) if "listener" in fields else None
    names = _read_server_names(fields["serverNames"]) if "serverNames" in fields else ()
    terminating = _read_tls(fields["terminatingTLS"]) if "terminatingTLS" in fields else None
    originating = _read_tls(fields["originatingTLS"]) if "originatingTLS" in fields else None
    if rules is not None and rules.protocol == "dns" and ingress:
        fields["rules"].refuse("DNS rules are about names that are asked for: write them under egress")
    if names and rules is not None and terminating is None:
        fields["serverNames"].refuse("serverNames beside rules need terminatingTLS: without it requests are not read")
    if listener is not None and ingress:
        fields["listener"].refuse("a listener can stand under egress only")
    if listener is not None and rules is not None:
        place.refuse("both listener and rules: the listener's configuration says what may pass, keep one of them")
    found = Redirect(rules, listener, names, terminating, originating)
    return None if found == Redirect() else found


def _read_rules(place: Place) -> L7Rules | None:
    fields = place.fields(_RULE_FIELDS)
    if fields is None:
        return None
    given = [name for name in ("http", "kafka", "dns", "l7proto") if name in fields]
    if "l7" in fields and "l7proto" not in fields:
        fields["l7"].refuse("l7 needs l7proto: name the parser that reads these rules")
    if len(given) > 1:
        place.refuse(f"{' and '.join(given)} in one element: write an element for each of them")
    rules: list[HttpRule | KafkaRule | DnsRule | ParserRule] = []
    protocol = ""
    for name in _LISTS:
        if name in fields:
            items = _READERS[name](fields[name])
            if fields[name].value:
                protocol, rules = protocol or name, items
    if "l7proto" in fields:
        parser = fields["l7proto"].text()
        protocol = protocol or parser or ""
        rules = rules or [one for item in _items(fields, "l7") if (one := _read_parser_rule(item)) is not None]
    return L7Rules(protocol, tuple(dict.fromkeys(rules))) if protocol else None


def _items(fields: dict[str, Place], name: str) -> tuple[Place, ...]:
    return tuple(fields[name].items()) if name in fields else ()


def _all(read: Callable[[Place], T | None]) -> Callable[[Place], list[T]]:
    def read_all(place: Place) -> list[T]:
        return [one for item in place.items() if (one := read(item)) is not None]

    return read_all


_READERS: Final[dict[str, Callable[[Place], list[HttpRule | KafkaRule | DnsRule | ParserRule]]]] = {
    "http": _all(read_http),
    "kafka": _all(read_kafka),
    "dns": _all(lambda place: read_dns(place, both=True)),
}


def _read_parser_rule(place: Place) -> ParserRule | None:
    pairs = [(name, text) for name, one in place.entries() if (text := one.text()) is not None]
    if any(not name for name, _ in pairs):
        place.refuse("a name is empty: write what the value is for")
    return ParserRule(tuple(sorted(pairs)))


def _read_server_names(place: Place) -> tuple[str, ...]:
    names = []
    items = tuple(place.items())
    if isinstance(place.value, list) and not items:
        place.refuse("an empty list of server names: write at least one, or leave serverNames out")
    for one in items:
        text = one.text()
        if text is None:
            continue
        if len(text) > SERVER_NAME_MAX or not _SERVER_NAME.fullmatch(text):
            one.refuse(
                f"{shown(text)} is not a server name: a DNS name, '*.' for one label or '**.' for several before it, "
                f"at most {SERVER_NAME_MAX} characters"
            )
        names.append(text.lower())
    return tuple(dict.fromkeys(names))


def _read_tls(place: Place) -> Tls | None:
    fields = place.fields(_TLS_FIELDS)
    if fields is None:
        return None
    if "secret" not in fields:
        place.refuse("secret is missing: name the secret that holds the certificates")
        return None
    secret = read_secret(fields["secret"])
    texts = {name: (fields[name].text() or "") if name in fields else "" for name in _TLS_FIELDS.known - {"secret"}}
    if secret is None:
        return None
    return Tls(secret, texts["trustedCA"], texts["certificate"], texts["privateKey"])


def _read_listener(place: Place) -> Listener | None:
    fields = place.fields(_LISTENER_FIELDS)
    if fields is None:
        return None
    name = fields["name"].text() if "name" in fields else ""
    if not name:
        place.refuse("name is missing: write the listener's name")
    if "envoyConfig" not in fields:
        place.refuse("envoyConfig is missing: name the configuration that has the listener")
        return None
    config = fields["envoyConfig"].fields(_CONFIG_FIELDS)
    if config is None:
        return None
    kind = (config["kind"].text() or "") if "kind" in config else ""
    if kind and kind not in _CONFIG_KINDS:
        advice = did_you_mean(kind, _CONFIG_KINDS)
        config["kind"].refuse(f"unknown kind {shown(kind)}{advice}; kinds are {', '.join(_CONFIG_KINDS)}")
    named = config["name"].text() if "name" in config else ""
    if not named:
        fields["envoyConfig"].refuse("name is missing: write the configuration's name")
    priority = fields["priority"].integer(1, PRIORITY_MAX) if "priority" in fields else 0
    return Listener(kind, named or "", name or "", priority or 0)
