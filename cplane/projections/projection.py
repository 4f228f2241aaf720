"""What every table of the datapath is: a fold of events that says what each of them changes."""

from collections.abc import Mapping
from typing import Protocol, TypeVar

from cplane.events.catalog import Event
from cplane.projections.delta import Delta

K = TypeVar("K")
V = TypeVar("V")


class Projection(Protocol[K, V]):
    """One table, kept in step with the events that were applied. Total: it accepts every event, always."""

    def apply(self, event: Event) -> Delta[K, V]:
        """What the event changes; empty when it changes nothing. `table` has it when this returns."""
        ...

    def table(self) -> Mapping[K, V]:
        """All rows, now. It changes with the next event: copy what must last."""
        ...
