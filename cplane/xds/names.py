"""Names of routes: for which proxy port they are, what becomes of a request, and by whose rules.

Envoy's access log repeats the name, so that a record says all of it by itself, whatever the rules are by then.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from cplane.domain.policy.redirection import RedirectRule
from cplane.domain.policy.rule import PolicyRef

_KEPT: Final = 16  # policies that a name has at most: it stands in every record
_NAMES_MAX: Final = 16_384
_SAFE: Final = "[].:-_"


class Told(NamedTuple):
    """What the name of a route says. `paths`: where in the policies `rules` the rules stand."""

    port: int = 0
    allowed: bool = False
    rules: tuple[PolicyRef, ...] = ()
    paths: tuple[str, ...] = ()


def allowing(port: int, rules: Iterable[RedirectRule]) -> str:
    """The name of a route by which requests pass, by these rules."""
    seen = dict.fromkeys((rule.ref, rule.path) for rule in rules if rule.ref is not None)
    texts = [
        "/".join(quote(part, safe=_SAFE) for part in (ref.kind, ref.namespace, ref.name, path))
        for ref, path in list(seen)[:_KEPT]
    ]
    return " ".join([f"{port}", "allow", *texts])


def denying(port: int) -> str:
    """The name of a route by which requests are refused."""
    return f"{port} deny"


@lru_cache(maxsize=_NAMES_MAX)
def read_name(name: str) -> Told:
    """What a name says; nothing is allowed by one that is not ours."""
    port, _, rest = name.partition(" ")
    verdict, *texts = rest.split(" ")
    if not port.isdecimal() or verdict not in {"allow", "deny"}:
        return Told()
    parts = [[unquote(part) for part in text.split("/")] for text in texts]
    if any(len(one) != 4 for one in parts):  # as `allowing` writes them
        return Told(int(port))
    refs = dict.fromkeys(PolicyRef(kind, namespace, name) for kind, namespace, name, _ in parts)
    return Told(int(port), verdict == "allow", tuple(refs), tuple(one[3] for one in parts))
