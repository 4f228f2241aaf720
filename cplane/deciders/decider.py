"""What deciders share: the form of a decision."""

from cplane.events.catalog import Event
from cplane.events.envelope import StreamId

Decision = tuple[tuple[StreamId, Event], ...]
"""Events that must enter the log together, each with its stream; empty: nothing new happened."""

NOTHING: Decision = ()
