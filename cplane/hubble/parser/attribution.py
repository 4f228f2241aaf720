"""Whose word the verdicts of a batch are: each distinct decision is looked up once."""

from typing import Final

import numpy as np
import numpy.typing as npt

from cplane.domain.verdict import DropReason
from cplane.hubble.parser.getters import Getters
from cplane.hubble.store import FlowStore
from datapath.notify.records import RecordFlags, RecordType

_KNOWN_MAX: Final = 1 << 16  # decisions remembered; all are forgotten beyond that
# Drops for other reasons may carry the cookie of an entry that had let the packet through.
_OF_POLICY: Final = np.zeros(256, np.bool_)
_OF_POLICY[
    [
        DropReason.POLICY_DENIED,
        DropReason.FRAGMENT_NOT_SUPPORTED,
        DropReason.PROXY_REDIRECTION_NOT_SUPPORTED_FOR_PROTOCOL,
        DropReason.POLICY_DENY,
        DropReason.AUTH_REQUIRED,
    ]
] = True
_COOKIE: Final = np.uint64(32)  # where the cookie stands in a decision; without one: endpoint, audited, egress
_ENDPOINT: Final = np.uint64(2)
_AUDITED: Final = np.uint64(2)
_EGRESS: Final = np.uint64(1)


class AttributionResolver:
    """Numbers of `store.attributions` for verdicts and drops."""

    def __init__(self, store: FlowStore, getters: Getters) -> None:
        self._store, self._getters = store, getters
        self._known: dict[int, int] = {}
        self._revision: int | None = None

    def forget(self) -> None:
        """Numbers given so far may mean something else now."""
        self._known.clear()

    def numbers(self, records: npt.NDArray[np.void]) -> npt.NDArray[np.uint32]:
        """The number of each record's attribution; 0 where policies have not decided."""
        out = np.zeros(len(records), np.uint32)
        kind = records["type"]
        rows = np.flatnonzero(kind != RecordType.TRACE)
        if not len(rows):
            return out
        cookie, reason = records["cookie"][rows], np.clip(-records["verdict"][rows], 0, 255)
        drop = kind[rows] == RecordType.DROP
        if drop.any():
            reason = np.where(drop, records["subtype"][rows], reason)
        decided = _OF_POLICY[reason] | ((reason == 0) & (cookie != 0))
        if not decided.all():
            rows, cookie = rows[decided], cookie[decided]
            if not len(rows):
                return out
        distinct, inverse = np.unique(_decisions(records, rows, cookie), return_inverse=True)
        out[rows] = self._numbers_of(distinct.tolist())[inverse]
        return out

    def _numbers_of(self, decisions: list[int]) -> npt.NDArray[np.uint32]:
        revision = self._getters.revision
        if revision != self._revision or len(self._known) > _KNOWN_MAX:
            self._known.clear()
            self._revision = revision
        return np.fromiter((self._number(one) for one in decisions), np.uint32, len(decisions))

    def _number(self, decision: int) -> int:
        number = self._known.get(decision)
        if number is None:
            cookie, endpoint = decision >> int(_COOKIE), decision >> int(_ENDPOINT)
            if cookie:
                found = self._getters.decided_by(cookie)
            else:
                egress, audited = bool(decision & int(_EGRESS)), bool(decision & int(_AUDITED))
                found = self._getters.denied_by_default(endpoint, egress=egress, audited=audited)
            number = self._known[decision] = self._store.attributions.number(found)
        return number


def _decisions(
    records: npt.NDArray[np.void], rows: npt.NDArray[np.intp], cookie: npt.NDArray[np.uint32]
) -> npt.NDArray[np.uint64]:
    """What tells one decision from another: the cookie, or where there is no entry, at which endpoint and which way."""
    found = cookie.astype(np.uint64) << _COOKIE
    unmatched = np.flatnonzero(cookie == 0)
    if len(unmatched):
        at = rows[unmatched]
        flags = records["flags"][at]
        egress = (flags & RecordFlags.EGRESS) != 0
        audited = ((flags & RecordFlags.AUDITED) != 0).astype(np.uint64)
        endpoint = np.where(egress, records["src_lxc"][at], records["dst_lxc"][at]).astype(np.uint64)
        found[unmatched] = endpoint << _ENDPOINT | audited * _AUDITED | egress
    return found
