"""Debug records of the datapath, ours and Cilium's, to rows of the ring of debug events."""

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from cplane.hubble.debugring import NO_CPU, ROW, DebugRing, Rows
from cplane.hubble.endpoint import EndpointMeta
from cplane.hubble.parser.getters import Getters

_SAME: Final = ("hash", "arg1", "arg2", "arg3", "source")


class DebugParser:
    """Fills a ring with what datapaths say, and remembers who said it."""

    def __init__(self, ring: DebugRing, getters: Getters) -> None:
        self._ring, self._getters = ring, getters
        self._known: dict[int, EndpointMeta] = {}
        self._revision: int | None = None

    def take(self, records: npt.NDArray[np.void], offset_ns: int) -> None:
        """The records (of `datapath.notify.records.DTYPE`, all of them DEBUG) are events.

        `offset_ns` is UTC minus the kernel's boot clock.
        """
        rows = self._rows(records)
        rows["time_ns"] = np.maximum(records["time_ns"].astype(np.int64) + offset_ns, 0)
        rows["cpu"] = records["cpu"].astype(np.int16)
        self._add(rows)

    def take_samples(self, headers: npt.NDArray[np.void], times_ns: npt.NDArray[np.uint64]) -> None:
        """Those of Cilium's programs (of `headers.DEBUG`) are events at these times (UTC)."""
        rows = self._rows(headers)
        rows["time_ns"], rows["cpu"] = times_ns, NO_CPU
        self._add(rows)

    @staticmethod
    def _rows(said: npt.NDArray[np.void]) -> Rows:
        rows = np.empty(len(said), ROW)
        for name in _SAME:
            rows[name] = said[name]
        rows["type"] = said["subtype"]
        return rows

    def _add(self, rows: Rows) -> None:
        self._ring.add(rows, dict(self._sources(set(rows["source"].tolist()))))

    def _sources(self, numbers: Iterable[int]) -> Iterable[tuple[int, EndpointMeta]]:
        """The endpoints that there are, of those numbers."""
        if self._getters.revision != self._revision:
            self._known.clear()
            self._revision = self._getters.revision
        for number in numbers:
            meta = self._known.get(number)
            if meta is None:
                info = self._getters.endpoint_by_id(number) if number else None
                if info is None:
                    continue  # it is gone, and what is known of it stays
                labels = self._getters.identity_labels(info.identity) if info.identity else ()
                meta = self._known[number] = EndpointMeta(
                    endpoint_id=number,
                    identity=info.identity,
                    cluster=info.cluster,
                    namespace=info.namespace,
                    pod_name=info.pod_name,
                    labels=tuple(sorted(label.removesuffix("=") for label in labels)),
                )
            yield number, meta
