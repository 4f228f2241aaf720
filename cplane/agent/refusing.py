"""What was refused is kept for those who ask later who tried what.

What the agent itself tries every few seconds, and cannot do while the log is away, is none of that: it would take the
room of what users have tried meanwhile.
"""

from collections.abc import Callable
from typing import Final

from cplane.agent import boot, checking, fqdn
from cplane.api.cni.service import QUEUE_ACTOR
from cplane.engine.engine import Refusal
from cplane.engine.ports import Clock
from cplane.errors import Unavailable
from cplane.eventlog.refusals import Refusals
from cplane.timetravel.refused import Refused

_OWN: Final = frozenset({boot.ACTOR, checking.ACTOR, fqdn.ACTOR, QUEUE_ACTOR})


def keeping(refusals: Refusals, clock: Clock) -> Callable[[Refusal], None]:
    """Takes each refusal of what somebody asked for, with the time of now."""

    def keep(refusal: Refusal) -> None:
        error = refusal.error
        if refusal.actor in _OWN and isinstance(error, Unavailable):
            return
        refusals.add(
            Refused(
                recorded_at_ns=clock.now_ns(),
                actor=refusal.actor,
                cause=refusal.cause,
                command=refusal.command,
                objects=refusal.objects,
                code=getattr(error, "code", "cplane"),
                message=str(error),
            )
        )

    return keep
