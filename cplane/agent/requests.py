"""How many requests proxies have judged, in Cilium's terms."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from cplane.domain.access import Access, Dns, Http, Kafka, Phase
from cplane.domain.verdict import Verdict

_PROXIES: Final = {Http: "envoy", Kafka: "kafka", Dns: "fqdn"}
_OUTCOMES: Final = {Verdict.FORWARDED: "forwarded", Verdict.DROPPED: "denied", Verdict.ERROR: "parse_errors"}


class Requests:
    """Counts what it is told of; `redirects` says how many proxy ports each parser has."""

    def __init__(self, redirects: Callable[[], Counter[str]]) -> None:
        self.redirects = redirects
        self.counted: Counter[tuple[str, str]] = Counter()
        """By outcome and proxy."""
        self.lost = 0
        """Records that proxies had no room for."""

    def count(self, records: Sequence[Access], lost: int) -> None:
        """These are requests and answers that proxies have seen; of `lost` others nothing is known."""
        self.lost += lost
        for one in records:
            if one.phase is not Phase.RESPONSE:
                proxy = _PROXIES[type(one.payload)]
                self.counted["received", proxy] += 1
                self.counted[_OUTCOMES.get(one.verdict, "parse_errors"), proxy] += 1
