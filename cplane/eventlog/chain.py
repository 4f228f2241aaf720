"""Where the log stands: the last position, its digest and the version of every stream.

Shared by every log and by the verifier, so that what one appends the other accepts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cplane.eventlog.codec import GENESIS, Draft, Row, StoredRow, digest_of
from cplane.eventlog.errors import BadEvent, StreamConflict
from cplane.events.envelope import Envelope, StreamId

READ_MAX: Final = 10_000  # events in one answer of any log
TAIL_BATCH: Final = 1000


@dataclass(slots=True)
class Chain:
    """The end of a log; moves forward only."""

    position: int = 0
    digest: bytes = GENESIS
    versions: dict[str, int] = field(default_factory=dict)

    def copy(self) -> "Chain":
        """Another chain at the same place, so that a failed write can be forgotten."""
        return Chain(self.position, self.digest, dict(self.versions))

    def extend(
        self, drafts: Sequence[Draft], expected: Mapping[StreamId, int], recorded_at_ns: int
    ) -> tuple[list[Row], list[Envelope]]:
        """The rows of `drafts` after the end, which is behind them now, and what readers will see of them.

        Raises StreamConflict, and has not moved then, when a stream is not at its expected version.
        """
        for stream, version in expected.items():
            actual = self.versions.get(stream, 0)
            if actual != version:
                raise StreamConflict(stream, version, actual)
        rows, envelopes = [], []
        for draft in drafts:
            version = self.versions.get(draft.stream, 0) + 1
            row, envelope = draft.row(self.position + 1, version, recorded_at_ns, self.digest)
            self._move(draft.stream, version, envelope.digest)
            rows.append(row)
            envelopes.append(envelope)
        return rows, envelopes

    def check(self, row: StoredRow) -> None:
        """Raises BadEvent when `row` does not belong behind the end."""
        position = self.position + 1
        if row[0] != position:
            raise BadEvent(min(row[0], position), "the event is missing" if row[0] > position else "out of order")
        if digest_of(row, self.digest) != row[-1]:
            raise BadEvent(position, "its digest does not fit: the event, or the one before it, was changed")
        stream, version = _stream(row), row[2]
        after = self.versions.get(stream, 0)
        if version != after + 1:
            raise BadEvent(position, f"stream {stream!r} goes from version {after} to {version}")

    def follow(self, row: StoredRow) -> None:
        """The end is behind `row` now, which `check` has let pass."""
        self._move(_stream(row), row[2], row[-1])

    def _move(self, stream: str, version: int, digest: bytes) -> None:
        self.position += 1
        self.versions[stream] = version
        self.digest = digest


def _stream(row: StoredRow) -> str:
    return row[1].decode(errors="backslashreplace")
