"""What can be wrong with a log, its file or what shall enter it."""

from cplane.errors import Conflict, Corrupt, NotFound, Rejected, Unavailable


class StreamConflict(Conflict):
    """A stream is not at the version that the events were decided on."""

    code = "log.conflict"

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        self.stream, self.expected, self.actual = stream, expected, actual

    def __str__(self) -> str:
        return (
            f"stream {self.stream!r} is at version {self.actual}, the events were decided at {self.expected}: "
            "read the log again and decide anew"
        )


class Unwritable(Rejected):
    """An event, or who asked for it, could not be read back if it were written."""

    code = "log.unwritable"

    def __init__(self, what: str, reason: str) -> None:
        self.what, self.reason = what, reason

    def __str__(self) -> str:
        return f"{self.what} cannot be stored: {self.reason}; nothing was written"


class BadEvent(Corrupt):
    """The row at `position` is not what was written there, or cannot be read."""

    code = "log.bad_event"

    def __init__(self, position: int, reason: str) -> None:
        self.position, self.reason = position, reason

    def __str__(self) -> str:
        return (
            f"event log, position {self.position}: {self.reason}; keep the file for inspection and "
            "restore a copy that `cplane log verify` finds sound"
        )


class UnknownEvent(BadEvent):
    """The row at `position` is sound, and of a type that this version of cplane has not heard of."""

    code = "log.unknown_event"

    def __init__(self, position: int, kind: str, schema: int) -> None:
        super().__init__(
            position,
            f"event type {kind!r} version {schema} is not known to this version of cplane: "
            "it was written by a newer one",
        )

    def __str__(self) -> str:
        return f"event log, position {self.position}: {self.reason}, run that"


class NotALog(Corrupt):
    """The file is something else, or too damaged to tell."""

    code = "log.not_a_log"

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path} is not an event log of cplane: {self.reason}; nothing was changed, check the path"


class NoSuchNode(NotFound):
    """The database has no log of the node that is meant, or several and none is named."""

    code = "log.no_such_node"

    def __init__(self, place: str, reason: str) -> None:
        self.place, self.reason = place, reason

    def __str__(self) -> str:
        return f"{self.place} {self.reason}"


class NewerSchema(Corrupt):
    """The file was written by a version of cplane that this one cannot follow."""

    code = "log.newer_schema"

    def __init__(self, path: str, found: str, known: str) -> None:
        self.path, self.found, self.known = path, found, known

    def __str__(self) -> str:
        return (
            f"{self.path} has schema {self.found}, this version knows {self.known}: it was written by a newer cplane; "
            "nothing was changed, run that version"
        )


class LogLocked(Unavailable):
    """Another writer has the log."""

    code = "log.locked"

    def __init__(self, path: str, pid: str) -> None:
        self.path, self.pid = path, pid

    def __str__(self) -> str:
        return f"{self.path} is in use by process {self.pid or 'unknown'}: a log has one writer, stop that agent first"


class StorageFailed(Unavailable):
    """The storage refused; nothing was written."""

    code = "log.storage"

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        remedy = "the database, and the way to it" if "://" in self.path else "space, permissions and the disk"
        return f"event log {self.path}: {self.reason}; nothing was written, check {remedy}"


class BadExport(Rejected):
    """A file is not what `cplane log export` writes, or no more."""

    code = "log.bad_export"

    def __init__(self, line: int, position: int, reason: str) -> None:
        self.line, self.position, self.reason = line, position, reason

    def __str__(self) -> str:
        where = f", position {self.position}" if self.position else ""
        return f"line {self.line}{where}: {self.reason}; no log was made, export it again"


class LogExists(Rejected):
    """There is something already where a log should be made."""

    code = "log.exists"

    def __init__(self, path: str) -> None:
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} is there already: nothing is written over it, choose another name or move it away"


class OutcomeUnknown(Unavailable):
    """The database went away before it answered."""

    code = "log.outcome_unknown"

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return (
            f"event log {self.path}: {self.reason}; the connection was lost before the answer came, and it is not "
            "known whether the change was written: look again when the database is back"
        )


class DriverMissing(Unavailable):
    """What speaks to PostgreSQL is an extra, and is not installed."""

    code = "log.driver_missing"

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __str__(self) -> str:
        return f"the driver of PostgreSQL is missing: pip install 'cplane[postgres]' ({self.reason})"


class LogClosed(Unavailable):
    """The log takes and gives nothing any more."""

    code = "log.closed"

    def __str__(self) -> str:
        return "the event log is closed"
