"""What a proxy saw: one request or answer of layer 7, and what became of it."""

from enum import IntEnum
from typing import NamedTuple

from cplane.domain.policy.rule import PolicyRef
from cplane.domain.verdict import Direction, Verdict


class Phase(IntEnum):
    """Which half of an exchange a record is about, as `flow.L7FlowType` numbers it."""

    UNKNOWN = 0
    REQUEST = 1
    RESPONSE = 2
    SAMPLE = 3


class Http(NamedTuple):
    """`code` is 0 in a request; `headers` by names such as `X-Request-Id`, in any order."""

    method: str
    url: str
    protocol: str
    code: int = 0
    headers: tuple[tuple[str, str], ...] = ()


class Dns(NamedTuple):
    """`query` is canonical (a dot at its end); `ttl` in seconds, the least of the addresses'."""

    query: str
    qtypes: tuple[str, ...] = ()
    rcode: int = 0
    ips: tuple[str, ...] = ()
    ttl: int = 0
    cnames: tuple[str, ...] = ()
    rrtypes: tuple[str, ...] = ()


class Kafka(NamedTuple):
    """One record per topic; `topic` is empty where the request names none."""

    api_key: str
    api_version: int
    correlation_id: int
    topic: str = ""
    error_code: int = 0


class Address(NamedTuple):
    """An end of the connection: the address as text, and the port."""

    ip: str
    port: int


class Access(NamedTuple):
    """One request or answer. `source` sent it: in an answer that is the server.

    `direction` is that of the policy by which the connection was redirected, `verdict` FORWARDED, DROPPED or ERROR.
    `rules`: the policies whose rules let it pass. `latency_ns` stands in answers.
    """

    time_ns: int
    phase: Phase
    direction: Direction
    verdict: Verdict
    protocol: int  # IP protocol number
    source: Address
    destination: Address
    payload: Http | Dns | Kafka
    proxy_port: int = 0
    rules: tuple[PolicyRef, ...] = ()
    latency_ns: int = 0

    @property
    def is_reply(self) -> bool:
        """Whether it is an answer."""
        return self.phase is Phase.RESPONSE
