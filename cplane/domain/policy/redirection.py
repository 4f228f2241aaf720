"""What a proxy is told: for each proxy port, whose requests come in there, and which of them may pass."""

from dataclasses import dataclass
from typing import NamedTuple

from cplane.domain.policy.redirect import Redirect
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.verdict import Direction

PORT_MIN = 10_000
PORT_MAX = 19_999
"""Proxy ports, as Cilium's `--proxy-port-min` and `-max` give them."""


PARSERS = frozenset({"http", "tls", "kafka", "dns"})
"""What there is a proxy for; all else that a rule wants to be read is dropped."""


class RedirectRule(NamedTuple):
    """Requests that may pass by one term of a policy; `redirect` None: all of them."""

    ref: PolicyRef | None  # None: the language itself allows it
    path: str
    redirect: Redirect | None


@dataclass(frozen=True, slots=True)
class Redirection:
    """What one proxy port is for. A request may pass where any of `rules` lets it; none does: refused.

    `direction` is that of the policy; `protocol` is TCP or UDP by IANA number, `port` the least port that is redirected
    there. `parser` is who reads the traffic: `http`, `kafka`, `dns`, `tls`, or what no proxy here knows.
    """

    direction: Direction
    protocol: int
    port: int
    parser: str
    rules: tuple[RedirectRule, ...]
