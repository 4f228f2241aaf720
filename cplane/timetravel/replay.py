"""What was so at a position: one table of the datapath, or one kind of object, as text in columns."""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from cplane.deciders.endpoint import NoSuchEndpoint
from cplane.deciders.servicestate import ServiceState
from cplane.domain.endpoint import Endpoint
from cplane.domain.service import BackendState, leads_to, shown
from cplane.errors import NotFound, Rejected
from cplane.events.service import BackendRecord
from cplane.projections import services
from cplane.projections.rows import columns_of, only
from cplane.projections.tables import DEVICES, IPCACHE, LXC, POLICY
from cplane.timetravel.history import History, Moment
from cplane.timetravel.when import instant

TABLES: Final[Mapping[str, str]] = {
    "policymap": POLICY,
    "ipcache": IPCACHE,
    "addresses": LXC,
    "devices": DEVICES,
    "lb-frontends": services.SERVICES,
    "lb-slots": services.SLOTS,
    "lb-backends": services.BACKENDS,
    "lb-affinity": services.MEMBERS,
    "lb-skips": services.SKIPS,
    "lb-source-ranges": services.RANGES,
    "lb-maglev": services.MAGLEV,
}
"""The tables that can be shown, by the name that users know: their name in the projections."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for at a moment. `rows` have a text for each of `columns`, in the order of their keys.

    `time` is when the event at `position` was recorded, empty at position 0; `endpoint` 0: of all.
    """

    position: int
    time: str
    show: str
    endpoint: int
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class NothingToShow(NotFound):
    """There is nothing of that name to show."""

    code = "history.nothing_to_show"

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        self.name, self.known = name, known

    def __str__(self) -> str:
        return f"there is nothing called {self.name!r} to show; known are {', '.join(self.known)}"


class NotByEndpoint(Rejected):
    """What was asked for is not of endpoints."""

    code = "history.not_by_endpoint"

    def __init__(self, show: str) -> None:
        self.show = show

    def __str__(self) -> str:
        return (
            f"{self.show} is not by endpoint: leave the endpoint out, or say with --show what of it you mean: "
            f"endpoints, {', '.join(TABLES)}"
        )


class NoEndpointThen(NoSuchEndpoint):
    """There was no such endpoint at the position."""

    def __init__(self, endpoint: int, position: int) -> None:
        super().__init__(endpoint)
        self.position = position

    def __str__(self) -> str:
        return (
            f"there is no endpoint {self.endpoint} at position {self.position}: "
            f"`cplane replay --to {self.position} --show endpoints` shows those that are"
        )


def replay(history: History, now_ns: int, *, to: str, show: str, endpoint: int = 0) -> Shown:
    """What was so at `to`. Raises NoSuchMoment, NothingToShow, NoEndpointThen."""
    if show not in SHOWS:
        raise NothingToShow(show, SHOWS)
    moment = history.moment(history.position_of(to, now_ns))
    if show in TABLES:
        columns, rows = _table(moment, TABLES[show], endpoint)
    elif endpoint and show != "endpoints":
        raise NotByEndpoint(show)
    else:
        columns, rows = _OBJECTS[show](moment)
        if endpoint:
            _find(moment, endpoint)
            rows = tuple(row for row in rows if row[0] == str(endpoint))
    return Shown(
        position=moment.position,
        time=instant(moment.recorded_at_ns) if moment.position else "",
        show=show,
        endpoint=endpoint,
        columns=columns,
        rows=rows,
    )


Grid = tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]
"""Column names, and rows."""


def _table(moment: Moment, name: str, endpoint: int) -> Grid:
    rows = moment.tables.table(name)
    if endpoint:
        rows = only(_find(moment, endpoint), name, rows)
    keys = sorted(rows)  # type: ignore[type-var]  # the keys of one table are of one type, and tuples
    columns = columns_of(name, keys, rows.values(), moment.tables.policies.origins)
    cells = tuple((*columns.key(key), *columns.value(rows[key])) for key in keys)
    return (*columns.key_names, *columns.value_names), cells


def _find(moment: Moment, number: int) -> Endpoint:
    endpoint = moment.world.endpoints.get(number)
    if endpoint is None:
        raise NoEndpointThen(number, moment.position)
    return endpoint


def _endpoints(moment: Moment) -> Grid:
    found = (one for _, one in sorted(moment.world.endpoints.items()))
    rows = tuple(
        (
            str(one.id),
            f"{one.namespace}/{one.pod}" if one.pod else one.container_id[:12],
            one.ipv4 or "-",
            one.ipv6 or "-",
            str(one.identity),
            str(one.policy_id),
            "audit" if one.audit else "-",
            " ".join(one.labels.texts()),
        )
        for one in found
    )
    return ("id", "pod", "ipv4", "ipv6", "identity", "policy", "mode", "labels"), rows


def _identities(moment: Moment) -> Grid:
    world = moment.world
    rows = tuple(
        (str(number), str(world.endpoint.users.get(number, 0)), " ".join(labels.texts()))
        for number, labels in sorted(world.identities.items())
    )
    return ("identity", "endpoints", "labels"), rows


def _policies(moment: Moment) -> Grid:
    documents = moment.world.policy.documents
    rows = tuple(
        (ref.kind, ref.namespace or "-", ref.name, documents[ref])
        for ref in sorted(documents, key=lambda one: (one.kind, one.namespace, one.name))
    )
    return ("kind", "namespace", "name", "document"), rows


def _services(moment: Moment) -> Grid:
    state = moment.world.service
    rows = tuple(
        (
            str(front.id),
            shown(front.address, front.port, front.protocol),
            front.kind,
            held.namespace,
            held.name,
            " ".join(
                f"{shown(one.address, one.port, one.protocol)}{_said(state, one)}"
                for one in state.backends(name)
                if leads_to(front, one)
            )
            or "-",
        )
        for name, held in sorted(state.services.items())
        for front in held.frontends
    )
    return ("id", "frontend", "type", "namespace", "name", "backends"), rows


def _said(state: ServiceState, one: BackendRecord) -> str:
    said = state.state_of(one)
    return "" if said is BackendState.ACTIVE else f" ({said.value})"


def _node(moment: Moment) -> Grid:
    held = moment.world.node
    if held is None:
        return ("name", "value"), ()
    rows = (
        ("name", held.name),
        ("cluster", held.cluster),
        ("ipv4_pods", held.ipv4_pod_cidr or "-"),
        ("ipv6_pods", held.ipv6_pod_cidr or "-"),
        ("routers", " ".join(held.routers) or "-"),
        ("addresses", " ".join(held.addresses) or "-"),
    )
    return ("name", "value"), rows


def _options(moment: Moment) -> Grid:
    options = moment.world.options
    rows = (
        ("policy_enforcement", str(options.policy_enforcement)),
        ("policy_audit", "on" if options.policy_audit else "off"),
    )
    return ("name", "value"), rows


def _summary(moment: Moment) -> Grid:
    world = moment.world
    counts: dict[str, object] = {
        "node": world.node.name if world.node else "-",
        "cluster": world.cluster,
        "endpoints": len(world.endpoints),
        "identities": len(world.identities),
        "policies": len(world.policies),
        "policy_revision": world.policy_revision,
        "services": len(world.service.services),
        **{name: len(moment.tables.table(table)) for name, table in TABLES.items()},
    }
    return ("name", "value"), tuple((name, str(value)) for name, value in counts.items())


_OBJECTS: Final[Mapping[str, Callable[[Moment], Grid]]] = {
    "summary": _summary,
    "endpoints": _endpoints,
    "identities": _identities,
    "policies": _policies,
    "services": _services,
    "node": _node,
    "options": _options,
}
SHOWS: Final = (*_OBJECTS, *TABLES)
"""All that can be shown."""
