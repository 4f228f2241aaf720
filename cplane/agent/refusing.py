"""What was refused is kept for those who ask later who tried what."""

from collections.abc import Callable

from cplane.engine.engine import Refusal
from cplane.engine.ports import Clock
from cplane.eventlog.refusals import Refusals
from cplane.timetravel.refused import Refused


def keeping(refusals: Refusals, clock: Clock) -> Callable[[Refusal], None]:
    """Takes each refusal with the time of now."""

    def keep(refusal: Refusal) -> None:
        error = refusal.error
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
