"""What of all that was refused is kept."""

from cplane.agent.refusing import keeping
from cplane.engine.engine import Refusal
from cplane.errors import NotFound, Unavailable
from cplane.eventlog.refusals import Refusals
from tests.support.clock import TickingClock


def test_what_the_agent_tries_by_itself_while_the_log_is_away_takes_no_room():
    refusals = Refusals(None)
    keep = keeping(refusals, TickingClock())
    away, unknown = Unavailable("the database is away"), NotFound("no such backend")
    for actor, error in (
        ("agent", away),
        ("dns-proxy", away),
        ("cni-queue", away),
        ("uid:0(root)", away),
        ("agent", unknown),
    ):
        keep(Refusal("command", (), actor, "", error))
    assert [(one.actor, one.message) for one in refusals.in_memory()] == [
        ("uid:0(root)", "the database is away"),
        ("agent", "no such backend"),
    ]
