"""What an agent does again and again: what goes wrong with it is told, and ends nothing."""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from cplane.errors import CplaneError
from cplane.telemetry.fault import Fault
from datapath.errors import Corrupt, DatapathError

T = TypeVar("T")


class Attempts(Generic[T]):
    """One thing that is done again and again. `failed` is told what hinders it, unless it has just been told the same.

    A log that cannot be written, a kernel that refuses and a disk that is full are no reason for an agent to go: it
    would not come back before all is well again, while all that needs none of them goes on. What the datapath takes for
    spoilt is one.
    """

    def __init__(self, attempt: Callable[[], Awaitable[T]], failed: Callable[[str], None]) -> None:
        self._attempt, self._fault = attempt, Fault(failed)

    async def once(self) -> T | None:
        """What comes of it; None where something hinders it."""
        done, failure = None, ""
        try:
            done = await self._attempt()
        except Corrupt:
            raise
        except (CplaneError, DatapathError, OSError) as error:
            failure = str(error) or type(error).__name__
        self._fault.now(failure)
        return done
