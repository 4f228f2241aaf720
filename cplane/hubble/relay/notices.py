"""What a relay says itself in the stream of flows: which nodes answer, and which do not. Pure."""

from collections.abc import Iterable
from typing import Final

from cplane.hubble.relay.scan import HEADER
from cplane.pb.observer import observer_pb2
from cplane.pb.relay import relay_pb2

WINDOW_NS: Final = 10_000_000_000  # for which an error waits for others of the same words
NAMES_MAX: Final = 1000  # in one notice; a message of all nodes could be too long for a client
_TEXT_MAX: Final = 1024  # characters of what a node said


def framed(response: observer_pb2.GetFlowsResponse) -> bytes:
    """The message as it stands in a stream."""
    data = response.SerializeToString()
    return b"\0" + len(data).to_bytes(HEADER - 1, "big") + data


class Notices:
    """Makes the messages of one relay, which calls itself `node`."""

    def __init__(self, node: str) -> None:
        self._node = node

    def state(
        self, state: relay_pb2.NodeState, names: Iterable[str], at_ns: int, *, message: str = ""
    ) -> Iterable[bytes]:
        """Framed messages that say so of these nodes; none when there are no names."""
        found = sorted(names)
        for start in range(0, len(found), NAMES_MAX):
            response = observer_pb2.GetFlowsResponse(node_name=self._node)
            response.time.FromNanoseconds(at_ns)
            event = response.node_status
            event.state_change, event.message = state, message
            event.node_names.extend(found[start : start + NAMES_MAX])
            yield framed(response)

    def errors(self, names: Iterable[str], message: str, at_ns: int) -> Iterable[bytes]:
        """Framed messages that say that these nodes failed with these words."""
        return self.state(relay_pb2.NODE_ERROR, names, at_ns, message=message)


class Errors:
    """Errors of nodes, those of the same words in one notice.

    The notice waits for more of its kind, for 10 s after its first one, and until there is one of another kind.
    """

    def __init__(self, notices: Notices) -> None:
        self._notices = notices
        self._names: dict[str, None] = {}
        self._message = ""
        self._since_ns = 0

    def add(self, name: str, message: str, now_ns: int, present_ns: int) -> list[bytes]:
        """A node failed; gives the notice that does not wait any more."""
        message = message[:_TEXT_MAX]
        given = self.flush(present_ns) if self._names and message != self._message else []
        if not self._names:
            self._message, self._since_ns = message, now_ns
        self._names[name] = None
        return given

    @property
    def deadline_ns(self) -> int | None:
        """When the waiting ends; None: nothing waits."""
        return self._since_ns + WINDOW_NS if self._names else None

    def due(self, now_ns: int, present_ns: int) -> list[bytes]:
        """The notice whose time has come."""
        deadline = self.deadline_ns
        return self.flush(present_ns) if deadline is not None and now_ns >= deadline else []

    def flush(self, present_ns: int) -> list[bytes]:
        """The notice that waits, if one does."""
        names, self._names = self._names, {}
        return [*self._notices.errors(names, self._message, present_ns)]
