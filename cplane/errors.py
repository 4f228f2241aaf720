"""The error families of cplane; the only module that every layer may import.

A family says whose move it is. Each error has a stable `code`, keeps its data as
attributes and renders itself in `__str__`: what was wrong, where, and what to do.
"""

from typing import TypeVar

E = TypeVar("E", bound=Exception)


class CplaneError(Exception):
    """Root of everything that cplane raises on purpose."""

    code = "cplane"


class Rejected(CplaneError):
    """The command is wrong or not allowed now: change the command."""

    code = "rejected"


class Conflict(CplaneError):
    """Somebody else was first: read again and retry."""

    code = "conflict"


class NotFound(CplaneError):
    """What was named does not exist."""

    code = "not_found"


class Unavailable(CplaneError):
    """Nothing is wrong with the command: retry later."""

    code = "unavailable"


class Corrupt(CplaneError):
    """Stored state cannot be trusted: stop and look."""

    code = "corrupt"


class Bug(CplaneError):
    """cplane itself is wrong, and nothing has changed by it: report it."""

    code = "bug"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __str__(self) -> str:
        said = f"{type(self.error).__name__}: {self.error}"
        return f"a mistake of cplane's own ({said}): nothing was changed; report it with the agent's log"


def leaves(group: BaseExceptionGroup[E]) -> list[E]:
    """The errors in a group, and in the groups in it, in their order."""
    found: list[E] = []
    for one in group.exceptions:
        found += leaves(one) if isinstance(one, BaseExceptionGroup) else [one]
    return found
