"""All tables of the datapath: one fold, one delta, and the order in which it must be written."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from cplane.errors import Rejected
from cplane.events.catalog import Event
from cplane.events.policy import PolicyUpserted
from cplane.events.service import ServiceEvent
from cplane.projections import redirects, services
from cplane.projections.delta import Composition, Delta, compose
from cplane.projections.endpoints import address_projection, device_projection
from cplane.projections.ipcache import IpcacheProjection
from cplane.projections.policymap import PolicyMapProjection
from cplane.projections.projection import Projection
from cplane.projections.services import ServiceProjection
from datapath.maps import endpoints, ipcache, lb, policy
from datapath.maps.spec import MapSpec

REDIRECTS: Final = "redirects"
POLICY: Final = "policy"
DEVICES: Final = "devices"
PROGRAMS: Final = "programs"
IPCACHE: Final = "ipcache"
LXC: Final = "lxc"
LB: Final = services.TABLES

UPSERT_ORDER: Final = (REDIRECTS, POLICY, DEVICES, PROGRAMS, IPCACHE, LXC, *LB)
"""What a packet meets first is written last: it finds the policy of an identity before the identity itself, and a proxy
where the policy names one."""

DELETE_ORDER: Final = (*reversed(LB), LXC, IPCACHE, PROGRAMS, DEVICES, POLICY, REDIRECTS)
"""Addresses stop being reachable before what judged their packets goes."""

MAPS: Final[Mapping[str, MapSpec]] = {
    POLICY: policy.SPEC,
    DEVICES: endpoints.DEVICE_SPEC,
    PROGRAMS: endpoints.DEVICE_SPEC,
    IPCACHE: ipcache.SPEC,
    LXC: endpoints.ADDRESS_SPEC,
    services.BACKENDS: lb.BACKENDS,
    services.SLOTS: lb.SLOTS,
    services.MEMBERS: lb.MEMBERS,
    services.SKIPS: lb.SKIPS,
    services.RANGES: lb.RANGES,
    services.MAGLEV: lb.MAGLEV,
    services.SERVICES: lb.SERVICES,
}
"""The map that holds each table; redirects are held by proxies."""

CAPACITY: Final[Mapping[str, int]] = {
    REDIRECTS: redirects.CAPACITY,
    **{name: spec.max_entries for name, spec in MAPS.items()},
}
"""Entries that there is room for, where nobody says otherwise."""

_LESS: Final = {
    False: "use fewer peers, ports or prefixes, or broader selectors",
    True: "use fewer services, backends or source ranges, or smaller Maglev tables",
}


class TableFull(Rejected):
    """A kernel map has no room for what was asked."""

    code = "datapath.table_full"

    def __init__(self, table: str, needed: int, limit: int, whose: str = "") -> None:
        self.table, self.needed, self.limit, self.whose = table, needed, limit, whose

    def __str__(self) -> str:
        return (
            f"table {self.table!r}{self.whose} would need {self.needed} entries and holds {self.limit}: "
            f"nothing was changed; {_LESS[self.table in LB]}"
        )


class Tables:
    """Every desired table, kept in step with the events that were applied."""

    def __init__(self, facts: Iterable[Event] = ()) -> None:
        self._policy = PolicyMapProjection()
        self._folds: dict[str, Projection] = {  # type: ignore[type-arg]  # each table has row types of its own
            POLICY: self._policy,
            DEVICES: device_projection(),
            IPCACHE: IpcacheProjection(),
            LXC: address_projection(),
        }
        self._of_services = {POLICY: self._policy}
        self._services = ServiceProjection()
        self._services.gather(map(self._folded, facts))

    @property
    def policies(self) -> PolicyMapProjection:
        """What the rows of the policy table follow from, to be read."""
        return self._policy

    def apply(self, event: Event) -> dict[str, Delta]:  # type: ignore[type-arg]
        """What the event changes, by table; tables that it leaves alone are not in it."""
        return self._fold(event) | self._services.apply(event)

    def apply_all(self, events: Iterable[Event]) -> dict[str, Delta]:  # type: ignore[type-arg]
        """What all of the events change together, by table: `apply` of each in order, composed."""
        made: dict[str, Composition[Any, Any]] = {}

        def folded(event: Event) -> Event:
            if not (isinstance(event, PolicyUpserted) and self._policy.gather(event)):
                compose(made, {POLICY: self._policy.gathered()})
                compose(made, self._fold(event))
            return event

        services = self._services.gather(map(folded, events))
        compose(made, {POLICY: self._policy.gathered()})
        return {name: delta for name, composition in made.items() if (delta := composition.delta())} | services

    def _fold(self, event: Event) -> dict[str, Delta]:  # type: ignore[type-arg]
        """What the event changes in tables that are not of services."""
        # Of services, of which there may be ten thousands, only policies say something.
        folds = self._of_services if isinstance(event, ServiceEvent) else self._folds
        deltas = {name: delta for name, fold in folds.items() if (delta := fold.apply(event))}
        if redirected := self._policy.redirected():
            deltas[REDIRECTS] = redirected
        if (devices := deltas.get(DEVICES)) and (programs := _programs(devices)):
            deltas[PROGRAMS] = programs
        return deltas

    def _folded(self, event: Event) -> Event:
        """The same event, when all tables that are not of services have it; what it changes is not kept."""
        self._fold(event)
        return event

    def table(self, name: str) -> Mapping[object, object]:
        """The rows of one table. Programs run on every device, and there is nothing to say of them but where."""
        if name == PROGRAMS:
            return dict.fromkeys(self._folds[DEVICES].table())
        if name in LB:
            return self._services.table(name)
        if name == REDIRECTS:
            return cast("Mapping[object, object]", self._policy.redirections())
        return self._folds[name].table()

    def copy(self, name: str) -> Mapping[object, object]:
        """The rows of one table as they are now, whatever is applied later."""
        if name == POLICY:
            return cast("Mapping[object, object]", self._policy.copy())
        return dict(self.table(name))

    def check(self, capacity: Mapping[str, int] = CAPACITY, *, policy_entries: int = policy.ENTRIES_PER_POLICY) -> None:
        """Raises TableFull when a kernel map could not hold its table."""
        for name, limit in capacity.items():
            needed = len(self.table(name))
            if needed > limit:
                raise TableFull(name, needed, limit)
        for policy_id, needed in self._policy.entries_by_policy().items():
            if needed > policy_entries:
                planes = ", audited rules included," if policy_id & policy.AUDIT_PLANE else ""
                whose = f" of the endpoints that obey policy {policy_id & ~policy.AUDIT_PLANE}{planes}"
                raise TableFull(POLICY, needed, policy_entries, whose)

    def check_beside(self, deltas: Mapping[str, Delta], capacity: Mapping[str, int] = CAPACITY) -> None:  # type: ignore[type-arg]
        """Raises TableFull when a map could not hold rows that these deltas add beside those that they take away.

        Those that go are deleted last, so that nothing passes meanwhile that does not before and after. Rows of
        services may go first, and a change of policies alone is written a few at a time.
        """
        for name in deltas.keys() & capacity.keys() - {*LB, REDIRECTS}:
            delta, held, limit = deltas[name], len(self.table(name)), capacity[name]
            if held + len(delta.before) <= limit or deltas.keys() == {POLICY}:
                continue
            needed = held + len(delta.deletes)
            if needed > limit:
                raise TableFull(name, needed, limit, ", until rows that go are gone,")


def _programs(devices: Delta) -> Delta:  # type: ignore[type-arg]
    """Programs come and go with devices; a device whose row changes has them already."""
    came = [key for key in devices.upserts if key not in devices.before]
    return Delta(dict.fromkeys(devices.deletes), dict.fromkeys(came))
