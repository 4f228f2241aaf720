"""Kafka rules: which requests of the protocol may pass a proxy."""

import re
from dataclasses import dataclass
from typing import Final

from cplane.domain.policy.document import Fields, Place, did_you_mean, shown

TOPIC_MAX: Final = 255
VERSION_MAX: Final = 32_767

API_KEYS: Final = {
    name: number
    for number, name in enumerate(
        (
            *("produce", "fetch", "offsets", "metadata", "leaderandisr", "stopreplica", "updatemetadata"),
            *("controlledshutdown", "offsetcommit", "offsetfetch", "findcoordinator", "joingroup", "heartbeat"),
            *("leavegroup", "syncgroup", "describegroups", "listgroups", "saslhandshake", "apiversions"),
            *("createtopics", "deletetopics", "deleterecords", "initproducerid", "offsetforleaderepoch"),
            *("addpartitionstotxn", "addoffsetstotxn", "endtxn", "writetxnmarkers", "txnoffsetcommit"),
            *("describeacls", "createacls", "deleteacls", "describeconfigs", "alterconfigs"),
        )
    )
}
ROLES: Final = {
    "produce": frozenset({0, 3, 18}),
    "consume": frozenset({1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 18}),
}
WITH_TOPICS: Final = frozenset({0, 1, 2, 3, 4, 5, 6, 8, 9, 19, 20, 21, 23, 24, 27, 28, 34, 35, 37})
"""Keys of requests that name topics; a rule's topic does not matter to any other of the first 38."""
_LATER_WITHOUT_TOPICS: Final = frozenset({38, 39, 40, 41, 42, 48, 49, 50, 51, 57, 60, 65, 66, 71, 72})
_LAST_OF_OLD: Final = 37
_PRODUCE: Final = 0
_INIT_PRODUCER_ID: Final = 22

_FIELDS: Final = Fields(frozenset({"role", "apiKey", "apiVersion", "clientID", "topic"}))
_TOPIC: Final = re.compile(r"[a-zA-Z0-9._-]+")
_VERSION: Final = re.compile(r"0*([0-9]{1,5})")


def names_topics(api_key: int) -> bool:
    """Whether a rule's topic matters to the API. It does to one that nobody knows, which could read any topic."""
    return api_key in WITH_TOPICS or (api_key > _LAST_OF_OLD and api_key not in _LATER_WITHOUT_TOPICS)


@dataclass(frozen=True, slots=True)
class KafkaRequest:
    """A request, as a rule sees it."""

    api_key: int
    api_version: int = 0
    client_id: str = ""
    topics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KafkaRule:
    """What is given matches; without `keys` every key does. `version` None: any."""

    keys: frozenset[int] = frozenset()
    version: int | None = None
    client_id: str = ""
    topic: str = ""

    def matches(self, request: KafkaRequest, topic: str | None = None) -> bool:
        """Whether the request may pass as far as `topic`, one of its own, is concerned."""
        return (
            (not self.keys or request.api_key in self.keys or self._implies(request.api_key))
            and (self.version is None or request.api_version == self.version)
            and (not self.client_id or request.client_id == self.client_id)
            and (not self.topic or not names_topics(request.api_key) or topic == self.topic)
        )

    def _implies(self, api_key: int) -> bool:
        """Who may produce may ask for the number that its client counts records with: as KIP-679 has it for brokers."""
        return api_key == _INIT_PRODUCER_ID and _PRODUCE in self.keys

    def __str__(self) -> str:
        names = [name for name, number in API_KEYS.items() if number in self.keys]
        role = next((name for name, keys in ROLES.items() if keys == self.keys), "")
        parts = [role or ",".join(names), self.topic and f"topic {self.topic}"]
        parts += [self.client_id and f"client {self.client_id}"]
        return " ".join(part for part in parts if part) or "any request"


def read_kafka(place: Place) -> KafkaRule | None:
    """A rule of `kafka`."""
    fields = place.fields(_FIELDS)
    if fields is None:
        return None
    texts = {name: one.text() or "" for name, one in fields.items()}
    if texts.get("role") and texts.get("apiKey"):
        place.refuse("both role and apiKey: a role stands for its keys, keep one of them")
    topic = texts.get("topic", "")
    if len(topic) > TOPIC_MAX or (topic and not _TOPIC.fullmatch(topic)):
        fields["topic"].refuse(
            f"{shown(topic)} is not a topic: letters, digits, '.', '_' and '-', at most {TOPIC_MAX} of them"
        )
    return KafkaRule(_keys(fields, texts), _version(fields, texts), texts.get("clientID", ""), topic)


def _keys(fields: dict[str, Place], texts: dict[str, str]) -> frozenset[int]:
    role, key = texts.get("role", ""), texts.get("apiKey", "")
    if role:
        if role.lower() not in ROLES:
            fields["role"].refuse(
                f"unknown role {shown(role)}{did_you_mean(role, ROLES)}; roles are {', '.join(ROLES)}"
            )
        return ROLES.get(role.lower(), frozenset())
    if not key:
        return frozenset()
    if key.lower() not in API_KEYS:
        fields["apiKey"].refuse(f"unknown API key {shown(key)}{did_you_mean(key, API_KEYS)}")
        return frozenset()
    return frozenset({API_KEYS[key.lower()]})


def _version(fields: dict[str, Place], texts: dict[str, str]) -> int | None:
    text = texts.get("apiVersion", "")
    if not text:
        return None
    found = _VERSION.fullmatch(text)
    if found is None or int(found[1]) > VERSION_MAX:
        fields["apiVersion"].refuse(f"{shown(text)} is not a version: write a number from 0 to {VERSION_MAX}")
        return None
    return int(found[1])
