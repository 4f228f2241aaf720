"""What happens on a node in the long run: pods come and go, labels and policies change, each decided for real.

Every choice is the caller's `random.Random`, so that the same seed makes the same history.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from cplane.deciders.config import ChangeOptions
from cplane.deciders.decider import Decision
from cplane.deciders.endpoint import ConfigureEndpoint, CreateEndpoint, DeleteEndpoint, RelabelEndpoint
from cplane.deciders.fqdn import Answer, Ended, ExpireNames, RecordAnswers
from cplane.deciders.node import JoinNode, SetNodeAddresses
from cplane.deciders.policy import ApplyPolicies, DeletePolicies
from cplane.deciders.world import Command, World
from cplane.errors import Rejected
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import Row, draft
from cplane.eventlog.database import Place
from cplane.eventlog.database import open_writer as open_database
from cplane.eventlog.schema import COLUMNS, INSERT
from cplane.eventlog.sqlite import driver, open_writer
from cplane.events.envelope import Envelope, Proposed
from cplane.reactors.reaction import settle
from tests.support.builders import cnp, document, ports, selector
from tests.support.scenario import pod

JOIN = JoinNode(name="n1", cluster="default", ipv4_pod_cidr="10.7.0.0/22", ipv6_pod_cidr="fd00:7::/112")
APPS = tuple(f"app{number}" for number in range(40))
NAMES = (*(f"www{number}.example.com." for number in range(6)), "api.example.org.")
PREFIXES = tuple(f"203.0.{number}.0/24" for number in range(60))
BEGAN_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
STEP_NS = 2_000_000_000  # between two commands
ACTORS = ("uid:0(root)", "uid:1000(alice)", "uid:1001(bob)", "cert:ci", "cni", "agent")
_ROWS_AT_ONCE = 20_000


class Churn:
    """A node with about `pods` pods, and what is asked of it next."""

    def __init__(self, chance: Random, *, pods: int = 80, policies: int = 60, names: bool = False) -> None:
        self._chance, self._pods, self._policies, self._with_names = chance, pods, policies, names
        self._serial = count(1)
        self.world = World()

    def turns(self) -> Iterator[Decision]:
        """The events of one command after another, without end; those that lead to none, or are refused, left out."""
        command: Command = JOIN
        while True:
            try:
                decided, self.world = settle(command, self.world)
            except Rejected:
                decided = ()
            if decided:
                yield decided
            command = self._next()

    def _next(self) -> Command:
        chance, world = self._chance, self.world
        kind = chance.random()
        if self._with_names and world.endpoints and chance.random() < 0.2:
            return self._names(chance.choice(sorted(world.endpoints)))
        if kind < 0.8:
            if not world.endpoints or len(world.endpoints) < self._pods * chance.uniform(0.5, 1.5):
                return self._create()
            held = world.endpoints[chance.choice(sorted(world.endpoints))]
            return DeleteEndpoint(container_id=held.container_id, container_interface=held.container_interface)
        if kind < 0.9:
            return self._apply()
        if kind < 0.94 and world.policies:
            return DeletePolicies(refs=(chance.choice(sorted(world.policies)),))
        if kind < 0.97 and world.endpoints:
            return self._change(chance.choice(sorted(world.endpoints)))
        if kind < 0.98:
            return ChangeOptions(policy_audit=chance.random() < 0.5)
        return SetNodeAddresses(addresses=(f"192.0.2.{chance.randrange(1, 250)}", "2001:db8::1"))

    def _create(self) -> CreateEndpoint:
        app, number = self._chance.choice(APPS), next(self._serial)
        return pod(
            f"{app}-{number}",
            f"k8s:app={app}",
            f"k8s:pod-template-hash={number:x}",
            ifindex=number + 10,
            container=f"{number:064x}",
        )

    def _names(self, endpoint: int) -> Command:
        """An answer, of which some is in a prefix that policies name; or the end of all that the endpoint was told."""
        chance, held = self._chance, self.world.fqdn.answers.get(endpoint)
        if held is not None and chance.random() < 0.3:
            return ExpireNames(names=tuple(Ended(endpoint, name, (ip,), "ttl") for name, ip in held))
        ips = (f"203.0.{chance.randrange(8)}.{chance.randrange(1, 4)}", f"2001:db8::{chance.randrange(1, 4)}")
        return RecordAnswers(answers=(Answer(endpoint, chance.choice(NAMES), ips, 30, "10.7.0.53", BEGAN_NS),))

    def _change(self, number: int) -> Command:
        held = self.world.endpoints[number]
        if self._chance.random() < 0.4:
            return ConfigureEndpoint(endpoint=number, audit=not held.audit)
        kept = tuple(text for text in held.labels.texts() if not text.startswith("k8s:version="))
        return RelabelEndpoint(endpoint=number, labels=(*kept, f"k8s:version={self._chance.randrange(4)}"))

    def _apply(self) -> ApplyPolicies:
        chance = self._chance
        subject, peer, other = chance.choice(APPS), chance.choice(APPS), chance.choice(APPS)
        ingress: list[dict[str, Any]] = [
            {"fromEndpoints": [selector(f"app={peer}")], "toPorts": ports(f"{chance.randrange(1, 40) * 100}/TCP")},
            {"fromEndpoints": [selector(f"app={other}"), selector(f"app={chance.choice(APPS)}", "version=1")]},
        ]
        egress: list[dict[str, Any]] = [{"toEntities": ["host"]}]
        if chance.random() < 0.3:
            egress.append({"toCIDRSet": [{"cidr": chance.choice(PREFIXES)}], "toPorts": ports("443/TCP")})
        if self._with_names and chance.random() < 0.4:
            selected = [{"matchName": NAMES[0]}, {"matchPattern": chance.choice(("*.example.com", "**.example.com"))}]
            egress.append({"toFQDNs": chance.sample(selected, chance.randrange(1, 3))})
        name = f"{subject}-{chance.randrange(max(1, self._policies // 10))}"
        return ApplyPolicies(
            documents=(document(cnp(name, subject=selector(f"app={subject}"), ingress=ingress, egress=egress)),)
        )


def recorded(
    chance: Random, turns: int, *, pods: int = 4, policies: int = 20, names: bool = False
) -> tuple[list[Row], list[Envelope]]:
    """The rows of the events of so many commands, and what readers see of them. Some share a time."""
    churn, chain = Churn(chance, pods=pods, policies=policies, names=names), Chain()
    rows: list[Row] = []
    entries: list[Envelope] = []
    at_ns = BEGAN_NS
    for number, decided in zip(range(turns), churn.turns(), strict=False):
        at_ns += chance.choice((0, STEP_NS))
        expected = {stream: chain.versions.get(stream, 0) for stream, _ in decided}
        proposed = Proposed(events=decided, expected=expected, actor=chance.choice(ACTORS), cause=f"request-{number}")
        more = chain.extend(draft(proposed), expected, at_ns)
        rows += more[0]
        entries += more[1]
    return rows, entries


def rows_of(events: Decision) -> tuple[list[Row], list[Envelope]]:
    """The rows of these events, one after another, and what readers see of them."""
    expected = {stream: 0 for stream, _ in events}
    return Chain().extend(draft(Proposed(events=events, expected=expected, actor="test")), expected, BEGAN_NS)


def stored(path: Path, rows: Sequence[Row]) -> Path:
    """A new log with these rows is in the file, which is closed."""
    engine = open_writer(str(path))
    try:
        with engine.connect() as connection:
            _insert(driver(connection), rows)
    finally:
        engine.dispose()
    return path


def _insert(connection: Any, rows: Sequence[Row]) -> None:
    """The rows are in the log of the connection, in one transaction."""
    connection.execute("BEGIN")
    connection.executemany(INSERT, rows)
    connection.execute("COMMIT")


def stored_in(url: str, node: str, rows: Iterable[Sequence[object]]) -> None:
    """These rows are the log of the node in a PostgreSQL database, which has none of it yet."""
    with open_database(Place.of(url, node)) as connection, connection.cursor() as cursor:
        names = ", ".join((*COLUMNS, "node"))
        with cursor.copy(f"COPY events ({names}) FROM STDIN".encode()) as copy:
            for row in rows:
                copy.write_row((*row, node))
        connection.execute(b"ANALYZE events")


def write(path: Path, events: int, *, seed: int = 1, pods: int = 80) -> World:
    """A new log of at least so many events is in the file, which is closed; the world that it ends with."""
    chance, chain = Random(seed), Chain()
    churn = Churn(chance, pods=pods)
    engine = open_writer(str(path))
    try:
        with engine.connect() as connection:
            rows: list[Row] = []
            for number, decided in enumerate(churn.turns()):
                expected = {stream: chain.versions.get(stream, 0) for stream, _ in decided}
                proposed = Proposed(
                    events=decided, expected=expected, actor=chance.choice(ACTORS), cause=f"request-{number}"
                )
                rows += chain.extend(draft(proposed), expected, BEGAN_NS + number * STEP_NS)[0]
                if len(rows) >= _ROWS_AT_ONCE or chain.position >= events:
                    _insert(driver(connection), rows)
                    rows.clear()
                if chain.position >= events:
                    return churn.world
    finally:
        engine.dispose()
    raise AssertionError("a churn does not end")
