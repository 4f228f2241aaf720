"""Layer 7: Envoy, and our own proxies for DNS and Kafka."""

from collections.abc import Iterator

import l7_dns
import l7_http
import l7_kafka
from report import Result
from rig import Rig

_PARTS = (l7_http.measure, l7_dns.measure, l7_kafka.measure)


def measure(rig: Rig) -> Iterator[Result]:
    """Each part after the other."""
    for part in _PARTS:
        yield from part(rig)
