"""One client of delta ADS, without its connection: what it has, what it refused, and what to send it next.

Of each type one response is on its way at a time. A response that is refused is sent again in single resources, so
that it is known which of them is meant; that one is left out until it is another one, and the client goes on with what
it had.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

from cplane.xds.messages import CLUSTER, LISTENER, TYPES, Key, Resource

WILDCARD: Final = frozenset({CLUSTER, LISTENER})
"""Types of which a client wants all there are."""

_BATCH: Final = 200  # resources of a response

Resources = Mapping[str, Mapping[str, Resource]]
"""Everything that a client should have: by type and name."""


class Refused(NamedTuple):
    """A version of a resource that a client did not take, and why."""

    version: str
    reason: str


@dataclass(slots=True)
class _Sent:
    """A response that is not answered yet."""

    nonce: str
    versions: dict[str, str]
    removed: tuple[str, ...]


@dataclass(slots=True)
class _Type:
    """What a client has of one type, by name."""

    subscribed: set[str] = field(default_factory=set)
    everything: bool = False
    asked: bool = False
    held: dict[str, str] = field(default_factory=dict)  # versions that it has, as far as we know
    refused: dict[str, Refused] = field(default_factory=dict)
    alone: set[str] = field(default_factory=set)  # names that are sent by themselves
    again: set[str] = field(default_factory=set)  # names that it has just asked for
    dirty: set[str] = field(default_factory=set)  # names of which something may have to be sent
    unknown: bool = True  # everything may have to be
    sent: _Sent | None = None


class Client:
    """The state of one stream."""

    def __init__(self) -> None:
        self._types = {one: _Type() for one in TYPES}
        self._nonce = 0

    def receive(self, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        """What the client says is known. Types that are not ours are ignored, and never answered."""
        state = self._types.get(request.type_url)
        if state is None:
            return
        if not state.asked:
            state.asked = True
            state.everything = request.type_url in WILDCARD and not request.resource_names_subscribe
            state.held.update(request.initial_resource_versions)
        self._subscribe(state, request)
        if request.response_nonce and state.sent is not None and state.sent.nonce == request.response_nonce:
            sent, state.sent = state.sent, None
            if request.HasField("error_detail"):
                _take_refusal(state, sent, request.error_detail.message)
            else:
                _take_answer(state, sent)

    def touch(self, key: Key) -> None:
        """What is wanted under that name is another one, or nothing any more."""
        self._types[key.type_url].dirty.add(key.name)

    def responses(self, wanted: Resources) -> Iterator[discovery_pb2.DeltaDiscoveryResponse]:
        """What is to be sent now, in this order; it counts as sent."""
        for type_url, state in self._types.items():
            if state.asked and state.sent is None:
                response = self._response(type_url, state, wanted[type_url])
                if response is not None:
                    yield response

    def has(self, resource: Resource) -> bool:
        """Whether the client has taken this version."""
        return self._types[resource.key.type_url].held.get(resource.key.name) == resource.version

    def refused(self, resource: Resource) -> str:
        """Why the client did not take this version; empty: it did, or has not said yet."""
        found = self._types[resource.key.type_url].refused.get(resource.key.name)
        return found.reason if found is not None and found.version == resource.version else ""

    def gone(self, key: Key) -> bool:
        """Whether the client does not have a resource of that name."""
        return key.name not in self._types[key.type_url].held

    @staticmethod
    def _subscribe(state: _Type, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        for name in request.resource_names_subscribe:
            if name == "*":
                state.everything = state.unknown = True
            else:
                state.subscribed.add(name)
                state.again.add(name)
                state.dirty.add(name)
        for name in request.resource_names_unsubscribe:
            if name == "*":
                state.everything = False
            state.subscribed.discard(name)
            state.again.discard(name)
            state.held.pop(name, None)
            state.refused.pop(name, None)
            state.alone.discard(name)

    def _response(
        self, type_url: str, state: _Type, wanted: Mapping[str, Resource]
    ) -> discovery_pb2.DeltaDiscoveryResponse | None:
        if state.unknown:
            state.dirty.update(wanted, state.held)
            state.unknown = False
        due = _batch(state, sorted(name for name in state.dirty if _is_due(state, wanted.get(name))))
        # a route configuration that is gone goes with its listener, which may still be drained
        gone = (name for name in state.dirty if state.everything and name in state.held and name not in wanted)
        removed = tuple(sorted(gone)[:_BATCH])
        if not due and not removed:
            state.dirty.clear()
            return None
        self._nonce += 1
        state.dirty.difference_update(due, removed)
        state.again.difference_update(due)
        state.sent = _Sent(str(self._nonce), {name: wanted[name].version for name in due}, removed)
        return discovery_pb2.DeltaDiscoveryResponse(
            type_url=type_url,
            nonce=state.sent.nonce,
            removed_resources=removed,
            resources=[
                discovery_pb2.Resource(
                    name=name,
                    version=wanted[name].version,
                    resource=any_pb2.Any(type_url=type_url, value=wanted[name].body),
                )
                for name in due
            ],
        )


def _is_due(state: _Type, resource: Resource | None) -> bool:
    if resource is None:
        return False
    name = resource.key.name
    if name in state.again:
        return True
    if not state.everything and name not in state.subscribed:
        return False
    if state.held.get(name) == resource.version:
        return False
    found = state.refused.get(name)
    return found is None or found.version != resource.version


def _batch(state: _Type, due: list[str]) -> list[str]:
    """As many as may be sent together: those that were refused together go one by one, after the others."""
    together = [name for name in due if name not in state.alone]
    return together[:_BATCH] if together else due[:1]


def _take_answer(state: _Type, sent: _Sent) -> None:
    state.held.update(sent.versions)
    for name in sent.versions:
        state.refused.pop(name, None)
        state.alone.discard(name)
    for name in sent.removed:
        state.held.pop(name, None)


def _take_refusal(state: _Type, sent: _Sent, reason: str) -> None:
    for name in sent.removed:
        state.held.pop(name, None)
    if len(sent.versions) > 1:
        state.alone.update(sent.versions)
        state.dirty.update(sent.versions)
        return
    for name, version in sent.versions.items():
        state.refused[name] = Refused(version, reason)
        state.alone.discard(name)
