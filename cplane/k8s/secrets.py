"""Secrets of Kubernetes, each read by a list and a watch of its own: nothing is asked for that nobody named.

Bytes come in, and what is known of the secret is here; whoever calls has the connection. A role needs `list` and
`watch` of `secrets`, for which `resourceNames` may name the very ones: a field selector of one name meets them.
Source: Kubernetes API concepts, "Efficient detection of changes"; RBAC, "Referring to resources".
"""

import re
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec

from cplane.domain.policy.http import ITEM_BYTES_MAX, ITEMS_MAX, Items
from cplane.errors import Unavailable

_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_VERSION: Final = re.compile(r"[!-~]{1,256}")
_WATCH_S: Final = 300
"""After which the server ends a watch: a connection on which nothing comes any more is noticed then at the latest."""

_GONE: Final = 410
_CHANGES: Final = frozenset({"ADDED", "MODIFIED", "DELETED", "BOOKMARK"})

T = TypeVar("T")


class BadAnswer(Unavailable):
    """What an API server says of a secret cannot be understood; the text has nothing of its content."""

    code = "k8s.bad_answer"

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Secret(msgspec.Struct):
    metadata: _Meta
    data: dict[str, bytes] | None = None  # base64


class _List(msgspec.Struct):
    kind: str
    metadata: _Meta
    items: list[_Secret] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    reason: str = ""


class SecretWatch:
    """One secret: what to ask for next, and what is known of it."""

    def __init__(self, namespace: str, name: str) -> None:
        """Raises ValueError where nothing in Kubernetes has that name."""
        if not _NAMESPACE.fullmatch(namespace) or not _NAME.fullmatch(name):
            raise ValueError("it is not the name of a namespace and of a secret in it")
        self._namespace, self._name = namespace, name
        self._version = ""
        self.items: Items | None = None

    def is_listed(self) -> bool:
        """Whether changes can be watched; else it has to be listed."""
        return bool(self._version)

    def target(self) -> str:
        """What to GET: a list, or a watch from where that one was."""
        found = f"/api/v1/namespaces/{self._namespace}/secrets?fieldSelector={quote(f'metadata.name={self._name}')}"
        if not self._version:
            return found
        version = quote(self._version, safe="")
        return f"{found}&watch=true&allowWatchBookmarks=true&timeoutSeconds={_WATCH_S}&resourceVersion={version}"

    def take_list(self, body: bytes) -> None:
        """An answer with status 200 to a list. Raises BadAnswer."""
        found = _decoded(body, _List)
        if found.kind != "SecretList":
            raise BadAnswer("the answer is no list of secrets")
        items = [self._items(one) for one in found.items or ()]
        self._advance(found.metadata)
        self.items = items[-1] if items else None

    def take_event(self, line: bytes) -> None:
        """A line of a watch. Raises BadAnswer; after that it has to be listed again."""
        try:
            self._take(_decoded(line, _Event))
        except BadAnswer:
            self._version = ""
            raise

    def restart(self) -> None:
        """It has to be listed again; until then all is as it was."""
        self._version = ""

    def _take(self, event: _Event) -> None:
        if event.type == "ERROR":
            self._fail(_decoded(bytes(event.object), _Status))
            return
        if event.type not in _CHANGES:
            raise BadAnswer(f"a change of the kind {event.type[:20]!r} is not known")
        secret = _decoded(bytes(event.object), _Secret)
        items = self._items(secret) if event.type != "BOOKMARK" else self.items
        self._advance(secret.metadata)
        self.items = items if event.type != "DELETED" else None

    def _fail(self, status: _Status) -> None:
        if status.code == _GONE:  # what changed since that version is not known there any more
            self._version = ""
            return
        raise BadAnswer(f"the watch has failed: {status.code} {status.reason[:80]}".rstrip())

    def _items(self, secret: _Secret) -> Items:
        if (secret.metadata.namespace, secret.metadata.name) != (self._namespace, self._name):
            raise BadAnswer("the answer is about another secret")
        items = secret.data or {}
        if len(items) > ITEMS_MAX or any(len(one) > ITEM_BYTES_MAX for one in items.values()):
            raise BadAnswer(f"it has more than {ITEMS_MAX} items, or one of more than {ITEM_BYTES_MAX} bytes")
        return items

    def _advance(self, meta: _Meta) -> None:
        if not _VERSION.fullmatch(meta.resource_version):
            raise BadAnswer("the answer has no resourceVersion")
        self._version = meta.resource_version


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # the decoder's message may repeat what it has read
        raise BadAnswer("the answer is not what Kubernetes says of secrets") from None
