"""What the rules of a proxy port say to a request, worked out once for each API, version and client."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cplane.domain.policy.kafka import KafkaRequest, KafkaRule, names_topics
from cplane.domain.policy.rule import PolicyRef
from cplane.proxy.channel import PutKafka

Refs = tuple[PolicyRef, ...]

_GRANTS_MAX: Final = 256  # client ids are the clients' to invent


@dataclass(frozen=True, slots=True)
class Grant:
    """What a request may be about. `every` lets any topic pass, `topics` those; each with who says so.

    `some`: a rule would let it pass that has a topic, or has none.
    """

    every: Refs | None
    topics: Mapping[str, Refs]

    @property
    def some(self) -> bool:
        """Whether the request may pass at all, as far as its topics let it."""
        return self.every is not None or bool(self.topics)

    def refs(self, topic: str) -> Refs | None:
        """Which policies let the topic pass; None: it may not."""
        named = self.topics.get(topic)
        if named is None or self.every is None:
            return named if self.every is None else self.every
        return tuple(dict.fromkeys((*self.every, *named)))


NOTHING: Final = Grant(None, {})


@dataclass(slots=True)
class Policy:
    """The rules of one proxy port. Two requests that are alike in key, version and client id have one grant."""

    put: PutKafka
    _grants: dict[tuple[int, int, str], Grant] = field(default_factory=dict)

    def grant(self, key: int, version: int, client_id: str) -> Grant:
        """What the rules say to such a request."""
        found = self._grants.get((key, version, client_id))
        if found is None:
            if len(self._grants) >= _GRANTS_MAX:
                self._grants.clear()
            found = self._grants[key, version, client_id] = self._judge(KafkaRequest(key, version, client_id))
        return found

    def _judge(self, request: KafkaRequest) -> Grant:
        every: dict[PolicyRef | None, None] = {}
        topics: dict[str, dict[PolicyRef, None]] = {}
        for term in self.put.rules:
            rules = (KafkaRule(),) if term.rules is None else term.rules
            for rule in rules:
                if not rule.matches(request, rule.topic or None):
                    continue
                if not rule.topic or not names_topics(request.api_key):
                    every[term.ref] = None
                else:
                    topics.setdefault(rule.topic, {}).update({term.ref: None} if term.ref else {})
        told = tuple(ref for ref in every if ref is not None) if every else None
        return Grant(told, {topic: tuple(refs) for topic, refs in topics.items()})
