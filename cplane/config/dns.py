"""What can be told about names that policies select."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

_SECONDS_MAX: Final = 7 * 86_400
_DELAY_MAX_MS: Final = 10_000
_COUNT_MAX: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsConfig:
    """How the DNS proxy answers, and how long what it learned counts."""

    reject: Literal["refused", "nameError"] = field(
        default="refused", metadata={"help": "what is answered to who may not ask: REFUSED, or NXDOMAIN"}
    )
    max_delay_ms: int = field(
        default=100,
        metadata={"help": "milliseconds for which an answer waits at most until its addresses may be reached"},
    )
    min_ttl_s: int = field(default=0, metadata={"help": "seconds for which addresses of a name count at least"})
    idle_grace_s: int = field(
        default=0, metadata={"help": "seconds for which addresses count beyond their time, for who connects late"}
    )
    ips_per_name_max: int = field(
        default=1000,
        metadata={"help": "addresses of a name that count for an endpoint; older ones only for open connections"},
    )
    deferred_max: int = field(
        default=10_000,
        metadata={"help": "addresses of an endpoint that count only because connections to them are open"},
    )

    def faults(self) -> Iterator[tuple[str, str]]:
        """Everything that is wrong here: key, relative to this section, and what."""
        for key in ("min_ttl_s", "idle_grace_s"):
            if not 0 <= getattr(self, key) <= _SECONDS_MAX:
                yield key, f"{getattr(self, key)} is not from 0 to {_SECONDS_MAX}, which is a week"
        if not 0 <= self.max_delay_ms <= _DELAY_MAX_MS:
            yield "max_delay_ms", f"{self.max_delay_ms} is not from 0 to {_DELAY_MAX_MS}"
        for key in ("ips_per_name_max", "deferred_max"):
            if not 1 <= getattr(self, key) <= _COUNT_MAX:
                yield key, f"{getattr(self, key)} is not from 1 to {_COUNT_MAX}"
