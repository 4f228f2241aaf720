"""The error families of the datapath library; its only module that all others may import.

A family says whose move it is. Each error has a stable `code`, keeps its data as
attributes and renders itself in `__str__`: what was wrong, where, and what to do.
"""


class DatapathError(Exception):
    """Root of everything that the datapath raises on purpose."""

    code = "datapath"


class Rejected(DatapathError):
    """The command is wrong or not allowed now: change the command."""

    code = "rejected"


class Conflict(DatapathError):
    """Somebody else was first: read again and retry."""

    code = "conflict"


class NotFound(DatapathError):
    """What was named does not exist."""

    code = "not_found"


class Unavailable(DatapathError):
    """Nothing is wrong with the command: retry later."""

    code = "unavailable"


class NoRoom(Unavailable):
    """A map is full: first something has to go."""

    code = "no_room"


class Corrupt(DatapathError):
    """Stored state cannot be trusted: stop and look."""

    code = "corrupt"
