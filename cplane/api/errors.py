"""Errors → gRPC status: the one table, and what else a client is told.

The status message is text for people. The trailer `cplane-error-bin` holds JSON for programs:
`{"code", "message", "errors": [{"document", "path", "message"}…], "more"}`; `more` counts errors that are
left out.
"""

import json
from typing import Final

from grpclib.const import Status

from cplane.config.problems import Problem
from cplane.errors import Bug, Conflict, Corrupt, CplaneError, NotFound, Rejected, Unavailable
from cplane.transport.calls import Refusal
from datapath import errors as datapath

TRAILER: Final = "cplane-error-bin"
# clients may refuse headers of more than 8 KiB in all
_MESSAGE_MAX: Final = 2048
_TRAILER_MAX: Final = 4096

_FAMILIES: Final[tuple[tuple[type[Exception], Status], ...]] = (
    (Rejected, Status.INVALID_ARGUMENT),
    (Conflict, Status.ABORTED),
    (NotFound, Status.NOT_FOUND),
    (Unavailable, Status.UNAVAILABLE),
    (Corrupt, Status.DATA_LOSS),
    (Bug, Status.INTERNAL),
    (datapath.Rejected, Status.INVALID_ARGUMENT),
    (datapath.Conflict, Status.ABORTED),
    (datapath.NotFound, Status.NOT_FOUND),
    (datapath.Unavailable, Status.UNAVAILABLE),
    (datapath.Corrupt, Status.DATA_LOSS),
    (CplaneError, Status.UNKNOWN),
)


class NotHere(Rejected):
    """A question that this agent cannot answer as it is set up."""

    code = "api.not_here"


class NotInTime(Unavailable):
    """Something did not happen before the caller's patience ended."""

    code = "api.not_in_time"


def refuse(error: Exception) -> Refusal | None:
    """How to tell an error; None for one that is no refusal but a bug."""
    for family, status in _FAMILIES:
        if isinstance(error, family):
            return Refusal(status, _shorten(str(error)), {TRAILER: _trailer(error)})
    return None


def _trailer(error: Exception) -> bytes:
    """At most `_TRAILER_MAX` bytes of JSON; errors that do not fit are counted."""
    problems = [one for one in getattr(error, "errors", ()) if isinstance(one, Problem)]
    document: dict[str, object] = {
        "code": getattr(error, "code", "cplane"),
        "message": _shorten(str(error), 512),
    }
    told: list[dict[str, object]] = []
    room = _TRAILER_MAX - len(_json(document)) - len('"errors":[],"more":99999999')
    for problem in problems:
        entry = {
            "document": problem.document,
            "path": _shorten(problem.path, 256),
            "message": _shorten(problem.message, 512),
        }
        room -= len(_json(entry)) + 1
        if room < 0:
            break
        told.append(entry)
    document |= {"errors": told, "more": len(problems) - len(told)}
    return _json(document)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


def _shorten(text: str, limit: int = _MESSAGE_MAX) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
