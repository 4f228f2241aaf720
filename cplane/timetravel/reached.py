"""Two ends as connections between them meet: where one asks for the address of a service, its backends are judged.

Services, their backends and endpoints come and go. So which questions there are is a fold of events, as each answer is.
"""

from typing import Final

from cplane.domain.policy.explanation import Explanation, Outcome
from cplane.domain.service import ServiceName
from cplane.events.catalog import Event
from cplane.events.endpoint import EndpointConfigured, EndpointCreated, EndpointDeleted, EndpointRelabelled
from cplane.events.envelope import Envelope
from cplane.events.node import NodeJoined
from cplane.events.service import (
    BackendsChanged,
    BackendStateChanged,
    ServiceDeleted,
    ServiceOptionsChanged,
    ServiceUpserted,
)
from cplane.timetravel.ledger import Ledger
from cplane.timetravel.served import Served, claimants, may_be_served, served
from cplane.timetravel.traffic import Question
from cplane.timetravel.verdicts import ABSENT, RANK, Judged, Pair

KINDS: Final = frozenset({"endpoint", "identity", "name", "service", "backend", "service-options"})
"""The kinds of objects, besides those that always matter, whose events say who serves an address."""


class Reached:
    """The ends of a question, and the backends where it is about a service; fold events into it, and ask."""

    def __init__(self, question: Question, ledger: Ledger) -> None:
        self._question = question
        self._bare = Pair(question, ledger.facts())
        self._ledger = ledger.copy() if may_be_served(question) else None
        self._claimed: frozenset[ServiceName] = frozenset()
        self._served: Served | None = None
        self._addresses: set[str] = set()  # of backends, whether they take connections or not
        self._pods: set[int] = set()  # the endpoints among them
        self._backends: dict[Question, Pair] = {}
        self._look()

    @property
    def service(self) -> Served | None:
        """The service that is asked for; None: there is none."""
        return self._served

    def apply(self, entry: Envelope) -> bool:
        """One more event. Whether the verdict may be another now."""
        ends, event = self._bare.ends, entry.event
        changed = self._bare.apply(event)
        for pair in self._backends.values():
            changed = pair.apply(event) or changed
        if self._ledger is None:
            return changed
        self._ledger.apply(entry.stream, event)
        if ends != self._bare.ends or self._concerns(event):
            self._look()
            return True
        return changed

    def worst(self) -> tuple[Question, Pair]:
        """What is judged, and by what it is: the backend that is worst off, or the ends themselves."""
        asked = [(one, pair, RANK[pair.judge().verdict]) for one, pair in self._backends.items()]
        question, pair, _ = max(asked, key=lambda one: one[2], default=(self._question, self._bare, 0))
        return question, pair

    def judge(self) -> Judged:
        """The verdict, as of the last event. To a service without a backend nothing passes; no direction decided."""
        _, pair = self.worst()
        judged = pair.judge()
        if self._served is None or self._backends or judged.verdict == ABSENT:
            return judged
        refused = Explanation(Outcome.DENIED, f"service {self._served.name}: {self._served.refusal}")
        return Judged(Outcome.DENIED, None, judged.source, judged.destination, refused, refused, judged.port)

    def _concerns(self, event: Event) -> bool:
        """Whether other backends may serve what is asked for."""
        match event:
            case ServiceUpserted() if self._claims(event):
                return True
            case (
                ServiceUpserted(namespace=namespace, name=name)
                | ServiceDeleted(namespace=namespace, name=name)
                | BackendsChanged(namespace=namespace, service=name)
            ):
                return ServiceName(namespace, name) in self._claimed
            case BackendStateChanged() | ServiceOptionsChanged() | NodeJoined():
                return bool(self._claimed)
            case EndpointCreated():
                return not self._addresses.isdisjoint((event.ipv4, event.ipv6))
            case EndpointRelabelled() | EndpointConfigured() | EndpointDeleted():
                return event.endpoint in self._pods
            case _:
                return False

    def _claims(self, event: ServiceUpserted) -> bool:
        _, destination = self._bare.ends
        return destination is not None and bool(claimants((event,), self._question, destination))

    def _look(self) -> None:
        """Which backends there are is found anew."""
        source, destination = self._bare.ends
        self._claimed, self._served, self._addresses, self._pods = frozenset(), None, set(), set()
        if self._ledger is None or source is None or destination is None:
            self._backends = {}
            return
        facts = tuple(self._ledger.facts())
        self._claimed = frozenset(claimants(facts, self._question, destination))
        if self._claimed:
            self._served = served(facts, self._question, source, destination)
            self._know(facts)
        held, asked = self._backends, self._served.questions if self._served is not None else ()
        self._backends = {one: held.get(one) or Pair(one, facts) for one in asked}

    def _know(self, facts: tuple[Event, ...]) -> None:
        for one in facts:
            if isinstance(one, BackendsChanged) and ServiceName(one.namespace, one.service) in self._claimed:
                self._addresses.update(backend.address for backend in one.backends)
        for one in facts:
            if isinstance(one, EndpointCreated) and not self._addresses.isdisjoint((one.ipv4, one.ipv6)):
                self._pods.add(one.endpoint)
