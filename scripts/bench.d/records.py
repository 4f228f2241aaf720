"""Records of three pods that call each other, for suites that need many flows."""

from collections.abc import Iterable

import numpy as np

from tests.support.flows import API, DB, WEB, records


def calls(kinds: Iterable[tuple[int, int]]) -> np.ndarray:
    """One record for each of the kinds (type and sub-type), pair of pods, TCP flags and port."""
    pods = ((11, WEB, 12, API), (12, API, 13, DB), (13, DB, 11, WEB))
    return records(
        *(
            {
                "type": kind,
                "subtype": subtype,
                "tcp_flags": flags,
                "dport": port,
                "src_lxc": source,
                "src_identity": own,
                "dst_lxc": target,
                "dst_identity": peer,
            }
            for kind, subtype in kinds
            for source, own, target, peer in pods
            for flags in (2, 16, 17)
            for port in (80, 443)
        )
    )
