"""What proxies saw to rows of the flow ring, a batch at a time."""

from collections.abc import Callable, Hashable, Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple, TypeVar

import numpy as np

from cplane.domain.access import Access, Dns, Http, Kafka, Phase
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.redaction import NO_REDACTION, Redaction, redact
from cplane.domain.verdict import Direction, Verdict
from cplane.hubble.detail import ACCESS, Detail, Request
from cplane.hubble.parser.ends import Around, EndResolver, Ends
from cplane.hubble.parser.getters import Getters
from cplane.hubble.parser.payload import RECORDS, Encoder
from cplane.hubble.payloads import BASE_BITS
from cplane.hubble.ring import COLUMNS, Array, LossSource, Reply
from cplane.hubble.store import FlowStore

H = TypeVar("H", bound=Hashable)

_KNOWN_MAX: Final = 1 << 16  # addresses and policies remembered; all are forgotten beyond that
_DIRECTIONS: Final = {Direction.INGRESS: 1, Direction.EGRESS: 2}  # flow.TrafficDirection
_REPLIES: Final = {
    Phase.UNKNOWN: Reply.UNKNOWN,
    Phase.REQUEST: Reply.NO,
    Phase.RESPONSE: Reply.YES,
    Phase.SAMPLE: Reply.NO,
}
_PORT_MAX: Final = 0xFFFF
_BYTE_MAX: Final = 0xFF
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
        self._encoder = Encoder()
        self._places: dict[str, _Place | None] = {}
        self._policies: dict[tuple[PolicyRef, ...], int] = {}
        self._details: dict[tuple[int, Phase, type[Http | Dns | Kafka]], int] = {}  # a few for each 4 GiB of payloads
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
        private = not self._redaction.is_nothing
        columns = self._sound([redact(one, self._redaction) for one in records] if private else records)
        if columns is not None:
            self._take(columns)
        if columns is not None or lost:
            self._store.changed.notify()

    def _sound(self, records: Sequence[Access]) -> "_Columns | None":
        """Records with two addresses, of which it is known who is there, and with ports; None: there are none."""
        if not records:
            return None
        columns, places = _columns_of(records), self._places
        addresses = {*columns.addresses}
        for text in addresses - places.keys():
            places[text] = self._find(text)
        if columns.fit and all(places[text] is not None for text in addresses):
            return columns
        sound = [
            one
            for one in records
            if _is_sound(one) and places[one.source.ip] is not None and places[one.destination.ip] is not None
        ]
        self.malformed += len(records) - len(sound)
        return _columns_of(sound) if sound else None

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

    def _take(self, columns: "_Columns") -> None:
        count, store = len(columns.records), self._store
        places = np.array(store.payloads.append([*map(self._encoder.encoded, columns.records)]), np.uint64)
        bases = (places & ~np.uint64(_LOW)).tolist()
        details = [*zip(bases, columns.phases, map(type, columns.payloads), strict=True)]
        batch: dict[str, Array] = {
            "time_ns": np.array(columns.times, np.int64).clip(0).astype(np.uint64),
            "origin": np.full(count, self._position(), COLUMNS["origin"]),
            "cookie": (places & np.uint64(_LOW)).astype(np.uint32),
            "sport": np.array(columns.ports[:count], np.uint16),
            "dport": np.array(columns.ports[count:], np.uint16),
            "proxy_port": np.array(columns.proxy_ports, np.uint16),
            "type": np.full(count, ACCESS, COLUMNS["type"]),
            "verdict": _column("verdict", columns.verdicts, int),
            "direction": _column("direction", columns.directions, _DIRECTIONS.__getitem__),
            "reply": _column("reply", columns.phases, _REPLIES.__getitem__),
            "protocol": np.array(columns.protocols, np.uint8),
            "detail": _column("detail", details, self._detail),
            "attribution": _column("attribution", columns.rules, self._attribution),
        }
        ends = self._ends_at(columns.addresses)
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

    def _ends_at(self, addresses: Sequence[str]) -> Ends:
        """Who is at these addresses, all of which are known."""
        different = {text: number for number, text in enumerate(dict.fromkeys(addresses))}
        numbers = np.fromiter(map(different.__getitem__, addresses), np.intp, len(addresses))
        known = [one for text in different if (one := self._places[text]) is not None]
        kinds = (np.uint16, np.uint32, np.uint8, np.uint64, np.uint64)
        lxc, identity, ip_version, hi, lo = (
            np.array(column, kind)[numbers] for column, kind in zip(zip(*known, strict=True), kinds, strict=True)
        )
        return Ends(lxc, identity, ip_version, hi, lo)

    def _detail(self, kind: tuple[int, Phase, type[Http | Dns | Kafka]]) -> int:
        number = self._details.get(kind)
        if number is None:
            base, phase, payload = kind
            detail = Detail(request=Request(base, int(phase), RECORDS[payload]))
            number = self._details[kind] = self._store.details.number(detail)
        return number

    def _attribution(self, rules: tuple[PolicyRef, ...]) -> int:
        if not rules:
            return 0
        number = self._policies.get(rules)
        if number is None:
            number = self._policies[rules] = self._store.attributions.number(self._getters.policies_named(rules))
        return number


class _Columns(NamedTuple):
    """Records by their fields; `addresses` and `ports` are those of all sources, and then of all destinations."""

    records: Sequence[Access]
    times: Sequence[int]
    phases: Sequence[Phase]
    directions: Sequence[Direction]
    verdicts: Sequence[Verdict]
    protocols: Sequence[int]
    addresses: Sequence[str]
    ports: Sequence[int]
    payloads: Sequence[Http | Dns | Kafka]
    proxy_ports: Sequence[int]
    rules: Sequence[tuple[PolicyRef, ...]]

    @property
    def fit(self) -> bool:
        """Whether all numbers fit into the columns."""
        times, protocols = self.times, self.protocols
        return (
            min(*self.ports, *self.proxy_ports) >= 0
            and max(*self.ports, *self.proxy_ports) <= _PORT_MAX
            and min(protocols) >= 0
            and max(protocols) <= _BYTE_MAX
            and min(times) >= -_TIME_MAX
            and max(times) <= _TIME_MAX
        )


def _columns_of(records: Sequence[Access]) -> _Columns:
    times, phases, directions, verdicts, protocols, sources, targets, payloads, proxy_ports, rules, _ = zip(
        *records, strict=True
    )
    addresses, ports = zip(*sources, *targets, strict=True)
    return _Columns(
        records, times, phases, directions, verdicts, protocols, addresses, ports, payloads, proxy_ports, rules
    )


def _is_sound(record: Access) -> bool:
    """Whether its numbers fit into the columns."""
    return (
        0 <= record.source.port <= _PORT_MAX
        and 0 <= record.destination.port <= _PORT_MAX
        and 0 <= record.proxy_port <= _PORT_MAX
        and 0 <= record.protocol <= _BYTE_MAX
        and -_TIME_MAX <= record.time_ns <= _TIME_MAX
    )


def _column(name: str, values: Sequence[H], number: Callable[[H], int]) -> Array:
    """The column of what is numbered, each value once."""
    numbers = {one: number(one) for one in {*values}}
    return np.fromiter(map(numbers.__getitem__, values), COLUMNS[name], len(values))
