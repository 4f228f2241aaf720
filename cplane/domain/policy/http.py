"""HTTP rules: which requests may pass a proxy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cplane.domain.policy import regex
from cplane.domain.policy.document import Fields, Place, did_you_mean, shown

MISMATCHES: Final = ("LOG", "ADD", "DELETE", "REPLACE")

_FIELDS: Final = Fields(frozenset({"path", "method", "host", "headers", "headerMatches"}))
_HEADER_FIELDS: Final = Fields(frozenset({"mismatch", "name", "secret", "value"}))
_SECRET_FIELDS: Final = Fields(frozenset({"name", "namespace"}))


class Secret(NamedTuple):
    """A Kubernetes secret, by name."""

    namespace: str
    name: str


Items = Mapping[str, bytes]
"""What a secret holds, by name."""

ITEMS_MAX: Final = 64
ITEM_BYTES_MAX: Final = 1 << 20
"""Of a secret, wherever it comes from."""


class HeaderMatch(NamedTuple):
    """A header that must have this value, from here or from a secret; `mismatch`: what to do where it has not."""

    name: str
    value: str = ""
    secret: Secret | None = None
    mismatch: str = ""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request, as a rule sees it; `headers` by lower-case name."""

    method: str = "GET"
    path: str = "/"
    host: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HttpRule:
    """All that is not empty matches: `method`, `path` and `host` are expressions for the whole of each.

    A request's path includes its query, as in Envoy, whose `:path` it is.
    """

    method: str = ""
    path: str = ""
    host: str = ""
    headers: tuple[str, ...] = ()
    header_matches: tuple[HeaderMatch, ...] = ()

    def matches(self, request: HttpRequest) -> bool:
        """Whether the request may pass. A header that only logs or is mended does not keep it back."""
        return (
            (not self.method or regex.matches(self.method, request.method))
            and (not self.path or regex.matches(self.path, request.path))
            and (not self.host or (not regex.problem(self.host) and regex.matches(self.host, request.host)))
            and all(_has(request, header) for header in self.headers)
            and all(one.mismatch or _equals(request, one) for one in self.header_matches)
        )

    def __str__(self) -> str:
        parts = [self.method, self.path, self.host and f"host {self.host}", *self.headers]
        parts += [f"{one.name}: {one.value or 'secret'}" for one in self.header_matches]
        return " ".join(part for part in parts if part) or "any request"


def read_http(place: Place) -> HttpRule | None:
    """A rule of `http`."""
    fields = place.fields(_FIELDS)
    if fields is None:
        return None
    texts = {name: fields[name].text() or "" if name in fields else "" for name in ("method", "path", "host")}
    for name in ("method", "path"):
        if texts[name] and (problem := regex.problem(texts[name])):
            fields[name].refuse(f"{shown(texts[name])} is not a regular expression (RE2): {problem}")
    headers = [text for one in fields["headers"].items() if (text := one.text())] if "headers" in fields else []
    matches = [_read_header(one) for one in fields["headerMatches"].items()] if "headerMatches" in fields else []
    return HttpRule(
        method=texts["method"],
        path=texts["path"],
        host=texts["host"],
        headers=tuple(headers),
        header_matches=tuple(one for one in matches if one is not None),
    )


def _read_header(place: Place) -> HeaderMatch | None:
    fields = place.fields(_HEADER_FIELDS)
    if fields is None:
        return None
    name = fields["name"].text() if "name" in fields else ""
    if not name:
        place.refuse("name is missing: write the header's name")
    mismatch = (fields["mismatch"].text() or "") if "mismatch" in fields else ""
    if mismatch and mismatch not in MISMATCHES:
        fields["mismatch"].refuse(
            f"unknown action {shown(mismatch)}{did_you_mean(mismatch, MISMATCHES)}; actions are {', '.join(MISMATCHES)}"
        )
    value = (fields["value"].text() or "") if "value" in fields else ""
    secret = read_secret(fields["secret"]) if "secret" in fields else None
    return HeaderMatch(name or "", value, secret, mismatch)


def read_secret(place: Place) -> Secret | None:
    """The name of a secret."""
    fields = place.fields(_SECRET_FIELDS)
    if fields is None:
        return None
    name = fields["name"].text() if "name" in fields else ""
    if not name:
        place.refuse("name is missing: write the secret's name")
    namespace = (fields["namespace"].text() or "") if "namespace" in fields else ""
    return Secret(namespace, name or "")


def read_header_text(text: str) -> tuple[str, str]:
    """Name and expression of an element of `headers`: `Name`, `Name value` or `Name: value`; "" for no expression."""
    name, _, value = text.partition(" ")
    return name.rstrip(":"), value.strip()


def _has(request: HttpRequest, header: str) -> bool:
    """`Name` alone: it is there; with an expression: that describes all of it.

    What is not an expression is compared, as Cilium compares every value: a plain one means the same either way.
    """
    name, value = read_header_text(header)
    held = request.headers.get(name.lower())
    if held is None or not value:
        return held is not None
    return held == value if regex.problem(value) else regex.matches(value, held)


def _equals(request: HttpRequest, one: HeaderMatch) -> bool:
    held = request.headers.get(one.name.lower())
    if one.secret is not None:
        return False  # what a secret says is not known where this is asked
    return held is not None and (not one.value or held == one.value)
