"""Commands that were refused. They are not in the log, which holds what happened, nor in its chain of digests."""

import msgspec


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Who asked for what, when (UTC, nanoseconds), about which objects, and why it was refused.

    `code` is a fixed word for programs, `message` the reason for people. `cause` may be empty.
    """

    recorded_at_ns: int
    actor: str
    cause: str
    command: str
    objects: tuple[str, ...]
    code: str
    message: str
