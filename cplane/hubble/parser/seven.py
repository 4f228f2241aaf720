"""What proxies saw to rows of the flow ring, a batch at a time."""

from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple

import numpy as np

from cplane.domain.access import Access, Phase
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.redaction import NO_REDACTION, Redaction, redact
from cplane.domain.verdict import Direction
from cplane.hubble.detail import ACCESS, Detail, Request
from cplane.hubble.parser.ends import Around, EndResolver, Ends
from cplane.hubble.parser.getters import Getters
from cplane.hubble.parser.payload import encoded, record_of
from cplane.hubble.payloads import BASE_BITS
from cplane.hubble.ring import COLUMNS, Array, LossSource, Reply
from cplane.hubble.store import FlowStore

_KNOWN_MAX: Final = 1 << 16  # addresses and policies remembered; all are forgotten beyond that
_DIRECTIONS: Final = {Direction.INGRESS: 1, Direction.EGRESS: 2}  # flow.TrafficDirection
_REPLIES: Final = {Phase.REQUEST: Reply.NO, Phase.RESPONSE: Reply.YES, Phase.SAMPLE: Reply.NO}
_PORT_MAX: Final = 0xFFFF
_TIME_MAX: Final = (1 << 63) - 1
_LOW: Final = (1 << BASE_BITS) - 1


class _Place(NamedTuple):
    """An address, and who is there, as `Ends` has it."""

    lxc: int
    identity: int
    ip_version: int
    hi: int
    lo: int


class AccessParser:
    """Turns records of proxies into flows of the store, and wakes who follows it.

    `position` is the log position that is in force, `now_ns` UTC. What `redaction` leaves out is in no flow, whoever
    the record is from.
    """

    def __init__(
        self,
        store: FlowStore,
        getters: Getters,
        *,
        position: Callable[[], int],
        now_ns: Callable[[], int],
        redaction: Redaction = NO_REDACTION,
    ) -> None:
        self._store, self._getters = store, getters
        self._position, self._now_ns, self._redaction = position, now_ns, redaction
        self._ends = EndResolver(store, getters)
        self._places: dict[str, _Place | None] = {}
        self._policies: dict[tuple[PolicyRef, ...], int] = {}
        self._details: dict[tuple[int, Phase, type], int] = {}  # a few for each 4 GiB of payloads
        self._revision: int | None = None
        self._generation = store.generation
        self._seen_ns = 0  # when flows were told last
        self.malformed = 0  # records without addresses, or with ports that there are not, which are left out

    def accesses(self, records: Sequence[Access], lost: int = 0) -> None:
        """The records are flows of the store. Before them, `lost` records are missing: nobody had room for them."""
        now = self._now_ns()
        if lost:
            self._store.ring.add_loss(LossSource.QUEUE, lost, self._seen_ns or now, now)
        self._seen_ns = now
        self._forget_old()
        rows = []
        for record in records:
            source, destination = self._place(record.source.ip), self._place(record.destination.ip)
            if source is None or destination is None or not _is_sound(record):
                self.malformed += 1
            else:
                rows.append((record, source, destination))
        if rows:
            self._take(*map(list, zip(*rows, strict=True)))
        if rows or lost:
            self._store.changed.notify()

    def _forget_old(self) -> None:
        self._store.collect()
        generation, revision = self._store.generation, self._getters.revision
        if generation != self._generation:
            self._generation = generation
            self._ends.forget()
            self._policies.clear()
            self._details.clear()
        if revision != self._revision or max(len(self._places), len(self._policies)) > _KNOWN_MAX:
            self._revision = revision
            self._places.clear()
            self._policies.clear()

    def _take(self, records: list[Access], sources: list[_Place], destinations: list[_Place]) -> None:
        count, store = len(records), self._store
        places = store.payloads.append([encoded(redact(one, self._redaction)) for one in records])
        batch: dict[str, Array] = {
            "time_ns": _column("time_ns", (min(max(one.time_ns, 0), _TIME_MAX) for one in records), count),
            "origin": np.full(count, self._position(), COLUMNS["origin"]),
            "cookie": _column("cookie", (place & _LOW for place in places), count),
            "sport": _column("sport", (one.source.port for one in records), count),
            "dport": _column("dport", (one.destination.port for one in records), count),
            "proxy_port": _column("proxy_port", (one.proxy_port for one in records), count),
            "type": np.full(count, ACCESS, COLUMNS["type"]),
            "verdict": _column("verdict", (one.verdict for one in records), count),
            "direction": _column("direction", (_DIRECTIONS[one.direction] for one in records), count),
            "reply": _column("reply", (_REPLIES.get(one.phase, Reply.UNKNOWN) for one in records), count),
            "protocol": _column("protocol", (one.protocol for one in records), count),
            "detail": _column("detail", map(self._detail, records, places), count),
            "attribution": _column("attribution", map(self._attribution, records), count),
        }
        ends = _ends_of([*sources, *destinations])
        for name, column in (("hi", ends.hi), ("lo", ends.lo), ("identity", ends.identity)):
            batch[f"src_{name}"], batch[f"dst_{name}"] = column[:count], column[count:]
        batch["ip_version"] = ends.ip_version[:count]
        around = Around(
            other=np.concatenate((ends.lxc[count:], ends.lxc[:count])),
            protocol=np.concatenate((batch["protocol"], batch["protocol"])),
            port=np.concatenate((batch["sport"], batch["dport"])),
        )
        numbers, seen = self._ends.numbers(ends, around)
        batch["src_meta"], batch["dst_meta"] = numbers[:count], numbers[count:]
        for name, kind in COLUMNS.items():
            if name not in batch:
                batch[name] = np.zeros(count, kind)
        store.append(batch)
        store.namespaces.saw(seen, self._seen_ns)

    def _place(self, text: str) -> _Place | None:
        """Who is at the address; None: it is none."""
        try:
            return self._places[text]
        except KeyError:
            found = self._places[text] = self._find(text)
            return found

    def _find(self, text: str) -> _Place | None:
        try:
            address = ip_address(text)
        except ValueError:
            return None
        family, packed = address.version, address.packed
        info = self._getters.endpoint_by_address(family, packed)
        endpoint, identity = (info.endpoint_id, info.identity) if info is not None else (0, 0)
        whole = int.from_bytes(packed.ljust(16, b"\0"), "big")
        return _Place(
            endpoint,
            identity or self._getters.identity_within(family, packed),
            1 if family == 4 else 2,
            whole >> 64,
            whole & (1 << 64) - 1,
        )

    def _detail(self, record: Access, place: int) -> int:
        kind = (place >> BASE_BITS, record.phase, type(record.payload))
        number = self._details.get(kind)
        if number is None:
            request = Request(place & ~_LOW, int(record.phase), record_of(record.payload))
            number = self._details[kind] = self._store.details.number(Detail(request=request))
        return number

    def _attribution(self, record: Access) -> int:
        if not record.rules:
            return 0
        number = self._policies.get(record.rules)
        if number is None:
            found = self._getters.policies_named(record.rules)
            number = self._policies[record.rules] = self._store.attributions.number(found)
        return number


def _ends_of(places: list[_Place]) -> Ends:
    lxc, identity, ip_version, hi, lo = zip(*places, strict=True)
    return Ends(
        np.array(lxc, np.uint16),
        np.array(identity, np.uint32),
        np.array(ip_version, np.uint8),
        np.array(hi, np.uint64),
        np.array(lo, np.uint64),
    )


def _is_sound(record: Access) -> bool:
    ports = (record.source.port, record.destination.port, record.proxy_port)
    return min(ports) >= 0 and max(ports) <= _PORT_MAX and 0 <= record.protocol <= 255


def _column(name: str, values: Iterable[int], count: int) -> Array:
    return np.fromiter(values, COLUMNS[name], count)
