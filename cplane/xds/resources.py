"""A redirection as Envoy's resources: its listener, the rules as routes, where connections go on to, certificates.

Connections over TLS are told apart by the server name that they ask for: a filter chain for each name, so that a change
of one closes connections of that name only.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from envoy.config.listener.v3 import listener_components_pb2

from cplane.domain.policy.http import HttpRule, Secret
from cplane.domain.policy.redirect import Tls
from cplane.domain.policy.redirection import Redirection, RedirectRule
from cplane.xds.clusters import Secrets, cluster, secrets_of
from cplane.xds.listeners import Logged, http_chain, listener, refusing_chain, tcp_chain
from cplane.xds.messages import LISTENER, ROUTES, Resource, resource
from cplane.xds.routes import CHOICES_MAX, route_configuration, too_many_choices

PARSERS: Final = frozenset({"http", "tls"})
"""Redirections that Envoy serves."""

_WILD: Final = re.compile(r"(\*{1,2})\.(.+)")


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a redirection needs at Envoy, and why a part of it is not in force (that part refuses)."""

    resources: tuple[Resource, ...]
    problem: str = ""


class _Ending(NamedTuple):
    """Rules for connections whose TLS is treated alike: ended by `terminating`, or not at all."""

    terminating: Tls | None
    names: tuple[str, ...]  # of servers; none: any
    rules: tuple[RedirectRule, ...]


@dataclass(slots=True)
class _Work:
    """A redirection on its way: what has been made so far."""

    port: int
    redirection: Redirection
    secrets: Secrets
    logged: Logged
    resources: dict[tuple[str, str], Resource] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, *made: Resource) -> None:
        """The resources are needed too."""
        self.resources.update((one.key, one) for one in made)


def secrets_named(redirection: Redirection) -> frozenset[Secret]:
    """Secrets whose content the resources depend on."""
    redirects = [rule.redirect for rule in redirection.rules if rule.redirect is not None]
    endings = (tls.secret for one in redirects for tls in (one.terminating, one.originating) if tls is not None)
    return frozenset((*endings, *_values_named(redirection)))


def _values_named(redirection: Redirection) -> Iterator[Secret]:
    """Secrets that are values of headers."""
    for rule in redirection.rules:
        for one in rule.redirect.rules.rules if rule.redirect is not None and rule.redirect.rules is not None else ():
            if isinstance(one, HttpRule):
                yield from (match.secret for match in one.header_matches if match.secret is not None)


def _without_value(redirection: Redirection, secrets: Secrets) -> Iterator[str]:
    """What is wrong with those."""
    for one in dict.fromkeys(_values_named(redirection)):
        where, items = f"secret {one.namespace}/{one.name}", secrets.get(one)
        if items is None:
            yield f"{where} is not there"
        elif len(items) != 1:
            yield f"{where} has {len(items)} items, and the value of a header is one"


def render(port: int, redirection: Redirection, secrets: Secrets, logged: Logged = Logged()) -> Rendered:  # noqa: B008
    """The resources by which Envoy lets pass at `port` what the redirection lets pass, and refuses the rest.

    Rules of other protocols let nothing pass.
    """
    assert redirection.parser in PARSERS, redirection.parser
    heeded = (one for one in redirection.rules if one.redirect is None or one.redirect.is_heeded_by(redirection.parser))
    redirection = replace(redirection, rules=tuple(heeded))
    work = _Work(port, redirection, secrets, logged)
    if too_many_choices(redirection.rules):
        work.problems.append(f"a rule with more than {CHOICES_MAX} headers to add or delete lets nothing pass")
    work.problems += _without_value(redirection, secrets)
    rules = tuple(one for one in redirection.rules if _usable(work, one))
    chains = [chain for ending in _endings(rules) for chain in _chains(work, ending)]
    default = _default(work, rules)
    made = listener(port, redirection.direction, _distinct(chains), default)
    work.add(resource(LISTENER, made.name, made))
    return Rendered(tuple(work.resources.values()), "; ".join(dict.fromkeys(work.problems)))


def _usable(work: _Work, rule: RedirectRule) -> bool:
    """Whether the rule's certificates are there; its resources are added then. One without them lets nothing pass."""
    terminating = rule.redirect.terminating if rule.redirect is not None else None
    originating = rule.redirect.originating if rule.redirect is not None else None
    ending, missing = secrets_of(terminating, work.secrets, ending=True) if terminating else ((), "")
    beginning, absent = secrets_of(originating, work.secrets, ending=False) if originating else ((), "")
    work.problems += filter(None, (missing, absent))
    if missing or absent:
        return False
    work.add(*ending, *beginning, cluster(originating, certificate=len(beginning) > 1))
    return True


def _endings(rules: Sequence[RedirectRule]) -> list[_Ending]:
    """Rules for connections over TLS, those that end it first. Rules for any server name stand with each of them."""
    made: list[_Ending] = []
    contexts = dict.fromkeys(one.redirect.terminating for one in rules if one.redirect and one.redirect.terminating)
    for terminating in contexts:
        own = [one for one in rules if one.redirect is not None and one.redirect.terminating == terminating]
        made += _by_names(terminating, own, [one for one in rules if _is_open(one)])
    through = [
        one
        for one in rules
        if one.redirect is not None
        and one.redirect.server_names
        and one.redirect.terminating is None
        and one.redirect.rules is None
    ]
    if through:
        made += _by_names(None, through, [one for one in rules if _is_open(one)])
    return made


def _by_names(terminating: Tls | None, own: Sequence[RedirectRule], others: Sequence[RedirectRule]) -> list[_Ending]:
    nameless = [one for one in own if one.redirect is not None and not one.redirect.server_names]
    names = dict.fromkeys(name for one in own if one.redirect is not None for name in one.redirect.server_names)
    made = []
    for name in sorted(names, key=lambda one: not one.startswith("**.")):  # which holds what `*.` does
        named = [
            one
            for one in own
            if one.redirect is not None and any(_covers(other, name) for other in one.redirect.server_names)
        ]
        made.append(_Ending(terminating, (name,), (*named, *nameless, *others)))
    if terminating is not None and (nameless or others):
        made.append(_Ending(terminating, (), (*nameless, *others)))
    return made


def _chains(work: _Work, ending: _Ending) -> list[listener_components_pb2.FilterChain]:
    direction = work.redirection.direction
    names = [_matched(name) for name in ending.names]
    label = "/".join(filter(None, ["tls", *ending.names]))
    if ending.terminating is not None and work.redirection.parser == "http":
        routes = f"{work.port}/{label}"
        work.add(resource(ROUTES, routes, route_configuration(routes, work.port, ending.rules, work.secrets)))
        expressions = _expressions(ending)
        return [http_chain(label, routes, direction, work.logged, names, expressions, ending.terminating)]
    return [
        tcp_chain(
            label,
            work.port,
            direction,
            ending.rules,
            names=names,
            expressions=_expressions(ending),
            passthrough=ending.terminating is None,
            tls=ending.terminating,
        )
    ]


def _default(work: _Work, rules: Sequence[RedirectRule]) -> listener_components_pb2.FilterChain:
    """What connections meet that are not over TLS, or for no server name that a rule has."""
    direction = work.redirection.direction
    plain = [
        one
        for one in rules
        if one.redirect is None or (one.redirect.terminating is None and not one.redirect.server_names)
    ]
    if work.redirection.parser == "http" and (plain or not any(_endings(rules))):
        routes = str(work.port)
        work.add(resource(ROUTES, routes, route_configuration(routes, work.port, plain, work.secrets)))
        work.add(cluster(None, certificate=False))
        return http_chain("plain", routes, direction, work.logged)
    work.add(cluster(None, certificate=False))
    if plain:
        return tcp_chain("plain", work.port, direction, plain)
    return refusing_chain(work.port, direction)


def _expressions(ending: _Ending) -> list[str]:
    """What server names must be, as expressions, where Envoy's own matching would take more. Empty: it does not."""
    if not any(_WILD.fullmatch(name) for name in ending.names) or any(_is_open(one) for one in ending.rules):
        return []
    names = dict.fromkeys(
        name
        for one in ending.rules
        if one.redirect is not None
        for name in one.redirect.server_names
        if _WILD.fullmatch(name)
    )
    return sorted(map(_expression, names))


def _is_open(rule: RedirectRule) -> bool:
    """Whether everything passes, whatever it is."""
    redirect = rule.redirect
    return redirect is None or (
        redirect.terminating is None
        and redirect.originating is None
        and not redirect.server_names
        and (redirect.rules is None or not redirect.rules.rules)
    )


def _covers(wider: str, name: str) -> bool:
    """Whether all server names of `name` are names of `wider`."""
    if wider == name or not wider.startswith("*"):
        return wider.rstrip(".") == name.rstrip(".")
    if not name.startswith("*"):
        return re.fullmatch(_expression(wider), name.rstrip(".")) is not None
    below = name.lstrip("*").rstrip(".")
    return wider.startswith("**.") and below.endswith(wider.lstrip("*").rstrip("."))


def _matched(name: str) -> str:
    """What Envoy compares with: `*.` stands there for one or more labels."""
    found = _WILD.fullmatch(name)
    return f"*.{found[2]}".rstrip(".") if found else name.rstrip(".")


def _expression(name: str) -> str:
    found = _WILD.fullmatch(name.rstrip("."))
    assert found is not None, name
    labels = r"[^.]+" if found[1] == "*" else r"[^.]+(\.[^.]+)*"
    return labels + r"\." + re.escape(found[2])


def _distinct(chains: Iterable[listener_components_pb2.FilterChain]) -> list[listener_components_pb2.FilterChain]:
    """The first of those that are for the same connections: Envoy would refuse two of them."""
    found: dict[tuple[str, ...], listener_components_pb2.FilterChain] = {}
    for one in chains:
        found.setdefault(tuple(one.filter_chain_match.server_names), one)
    return list(found.values())
