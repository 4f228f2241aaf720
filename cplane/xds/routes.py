"""HTTP rules as routes: the first that matches a request lets it pass, and the last one refuses it.

A route configuration is the policy. It is exchanged under open connections: the next request on each of them meets the
new one, and nothing is drained.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import product
from typing import Final, NamedTuple, TypeAlias

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2

from cplane.domain.policy import regex
from cplane.domain.policy.http import HeaderMatch, HttpRule, read_header_text
from cplane.domain.policy.redirect import Redirect, Tls
from cplane.domain.policy.redirection import RedirectRule
from cplane.xds.clusters import Secrets, cluster_name
from cplane.xds.expressions import literal, prefix
from cplane.xds.messages import flag, seconds
from cplane.xds.names import allowing, denying

DENIED: Final = "Access denied\r\n"
FORWARDED_PROTO: Final = "x-forwarded-proto"
STASH: Final = "x-cplane-forwarded-proto"
"""Envoy sets `x-forwarded-proto` where it is missing: here stands what the client said, until it is put back."""

CHOICES_MAX: Final = 5
"""Headers of one rule that are mended only where they differ: each of them doubles the number of its routes."""

_FORBIDDEN: Final = 403
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_MATCHERS_MAX: Final = 16_384
_HeaderMatcher: TypeAlias = route_components_pb2.HeaderMatcher
_Option: TypeAlias = base_pb2.HeaderValueOption


class Reading(NamedTuple):
    """How a header that a rule names is told from others; `value` None: it only has to be there."""

    match: HeaderMatch
    value: str | None


def route_configuration(
    name: str, port: int, rules: Sequence[RedirectRule], secrets: Secrets
) -> route_pb2.RouteConfiguration:
    """Requests that any of the rules allows pass, others are answered with 403, or `grpc-status: 7`."""
    host = route_components_pb2.VirtualHost(
        name="all",
        domains=["*"],
        routes=[_refusing(port, connect=True), *_routes(port, rules, secrets), _refusing(port, connect=False)],
        request_headers_to_remove=[FORWARDED_PROTO],
        request_headers_to_add=[_set(FORWARDED_PROTO, f"%REQ({STASH})%", _Option.OVERWRITE_IF_EXISTS_OR_ADD)],
    )
    return route_pb2.RouteConfiguration(
        name=name,
        virtual_hosts=[host],
        request_headers_to_remove=[STASH],
        validate_clusters=flag(False),
        ignore_port_in_host_matching=True,
    )


def too_many_choices(rules: Iterable[RedirectRule]) -> bool:
    """Whether a rule mends more headers than can be told to Envoy; it lets nothing pass then."""
    return any(
        sum(one.mismatch in {"ADD", "DELETE"} for one in rule.header_matches) > CHOICES_MAX
        for one in rules
        for rule in _http(one.redirect)
    )


def _routes(port: int, rules: Sequence[RedirectRule], secrets: Secrets) -> Iterator[route_components_pb2.Route]:
    """Those of rules that look at requests, in their order; then one of those that let all pass."""
    by_rule: dict[tuple[HttpRule, Tls | None], list[RedirectRule]] = {}
    for one in rules:
        originating = one.redirect.originating if one.redirect is not None else None
        for http in _http(one.redirect) or (HttpRule(),):
            by_rule.setdefault((http, originating), []).append(one)
    last = {key: found for key, found in by_rule.items() if key[0] == HttpRule()}
    for (http, originating), found in [*((key, one) for key, one in by_rule.items() if key not in last), *last.items()]:
        yield from _routes_of(http, originating, allowing(port, found), secrets)


def _routes_of(
    rule: HttpRule, originating: Tls | None, name: str, secrets: Secrets
) -> Iterator[route_components_pb2.Route]:
    """None where nothing can match; several where headers are mended according to what they are."""
    # what tells most rules apart comes first
    wanted = [_beginning(":path", rule.path), _expression(":method", rule.method), _expression(":path", rule.path)]
    wanted += [_host(rule.host), *map(_header, rule.headers)]
    readings = [(one, _value(one, secrets)) for one in rule.header_matches]
    wanted += [_reading(one, value) for one, value in readings if not one.mismatch]
    if any(one is _NEVER for one in wanted):
        return
    choices = [(one, value) for one, value in readings if one.mismatch in {"ADD", "DELETE"} and value is not None]
    if len(choices) > CHOICES_MAX:
        return
    fixed = [one for one in wanted if one is not None]
    for states in product((True, False), repeat=len(choices)):
        route = route_components_pb2.Route(
            name=name,
            match=route_components_pb2.RouteMatch(prefix="", headers=fixed),
            route=route_components_pb2.RouteAction(cluster=cluster_name(originating), timeout=seconds(0)),
        )
        for (one, known), equal in zip(choices, states, strict=True):
            matcher = _reading(one, known)
            assert matcher is not None
            route.match.headers.append(matcher if equal else _inverted(matcher))
            if not equal:
                _mend(route, one, known or "")
        for one, value in readings:
            if one.mismatch == "REPLACE" and value is not None:
                _replace(route, one, value)
        yield route


def _mend(route: route_components_pb2.Route, one: HeaderMatch, value: str) -> None:
    """The header, which is not as it should be, is removed or added."""
    if one.mismatch == "DELETE":
        route.request_headers_to_remove.append(one.name)
    else:
        route.request_headers_to_add.append(_set(one.name, _plain(value), _Option.APPEND_IF_EXISTS_OR_ADD))


def _replace(route: route_components_pb2.Route, one: HeaderMatch, value: str) -> None:
    """The header has the value afterwards; without one it is only added where it is missing."""
    action = _Option.OVERWRITE_IF_EXISTS_OR_ADD if value else _Option.ADD_IF_ABSENT
    route.request_headers_to_add.append(_set(one.name, _plain(value), action))


def _http(redirect: Redirect | None) -> tuple[HttpRule, ...]:
    """Rules that look at requests; none: every request may pass."""
    if redirect is None or redirect.rules is None:
        return ()
    return tuple(one for one in redirect.rules.rules if isinstance(one, HttpRule))


def _refusing(port: int, *, connect: bool) -> route_components_pb2.Route:
    match = route_components_pb2.RouteMatch(prefix="")
    if connect:
        match = route_components_pb2.RouteMatch(connect_matcher=route_components_pb2.RouteMatch.ConnectMatcher())
    return route_components_pb2.Route(
        name=denying(port),
        match=match,
        direct_response=route_components_pb2.DirectResponseAction(
            status=_FORBIDDEN, body=base_pb2.DataSource(inline_string=DENIED)
        ),
    )


_NEVER: Final = _HeaderMatcher(name="never")


def _host(expression: str) -> _HeaderMatcher | None:
    return _NEVER if expression and regex.problem(expression) else _expression(":authority", expression)


@lru_cache(maxsize=_MATCHERS_MAX)
def _expression(name: str, expression: str) -> _HeaderMatcher | None:
    """All of the header is what the expression describes; None: it says nothing."""
    if not expression:
        return None
    return _HeaderMatcher(name=name, string_match=_described(expression))


@lru_cache(maxsize=_MATCHERS_MAX)
def _beginning(name: str, expression: str) -> _HeaderMatcher | None:
    """The header begins as the expression does; None: that would spare nothing."""
    text = "" if literal(expression) is not None else prefix(expression)
    if len(text) <= 1:
        return None
    return _HeaderMatcher(name=name, string_match=string_pb2.StringMatcher(prefix=text))


def _described(expression: str) -> string_pb2.StringMatcher:
    """A comparison where the expression is plain text."""
    if (text := literal(expression)) is not None:
        return string_pb2.StringMatcher(exact=text)
    return string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=expression))


@lru_cache(maxsize=_MATCHERS_MAX)
def _header(text: str) -> _HeaderMatcher:
    """A header that must be there, or be as an expression says."""
    name, value = read_header_text(text)
    if not _TOKEN.fullmatch(name):
        return _NEVER
    if not value:
        return _HeaderMatcher(name=_seen_as(name), present_match=True)
    if regex.problem(value):
        return _HeaderMatcher(name=_seen_as(name), string_match=string_pb2.StringMatcher(exact=value))
    return _HeaderMatcher(name=_seen_as(name), string_match=_described(value))


def _value(one: HeaderMatch, secrets: Secrets) -> str | None:
    """What the header should be, empty: anything; None: the secret that says it is not there."""
    value = one.value
    if one.secret is not None:
        items = secrets.get(one.secret, {})
        if len(items) == 1:
            value = next(iter(items.values())).decode("utf-8", "replace")
        if not value:
            return None
    return value if _VALUE.fullmatch(value) else None


def _reading(one: HeaderMatch, value: str | None) -> _HeaderMatcher | None:
    if value is None or not _TOKEN.fullmatch(one.name):
        return _NEVER
    if not value:
        return _HeaderMatcher(name=_seen_as(one.name), present_match=True)
    return _HeaderMatcher(name=_seen_as(one.name), string_match=string_pb2.StringMatcher(exact=value))


def _inverted(matcher: _HeaderMatcher) -> _HeaderMatcher:
    """True where the other is not, for a header that is missing too."""
    made = _HeaderMatcher()
    made.CopyFrom(matcher)
    made.invert_match = True
    made.treat_missing_header_as_empty = made.HasField("string_match")
    return made


def _seen_as(name: str) -> str:
    return STASH if name.lower() == FORWARDED_PROTO else name


def _set(name: str, value: str, action: int) -> _Option:
    header = base_pb2.HeaderValue(key=name, value=value)
    return _Option(header=header, append_action=action)


def _plain(value: str) -> str:
    """The value where `%` begins a command."""
    return value.replace("%", "%%")
