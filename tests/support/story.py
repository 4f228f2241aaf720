"""A history that commands make, one after another, for questions whose answers are known."""

from cplane.deciders.node import JoinNode
from cplane.deciders.policy import ApplyPolicies
from cplane.deciders.world import Command, World
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import draft
from cplane.eventlog.reader import MemoryReader
from cplane.events.envelope import Envelope, Proposed
from cplane.reactors.reaction import settle
from cplane.timetravel.history import History
from cplane.timetravel.refused import Refused
from cplane.timetravel.traffic import Question
from cplane.timetravel.verdicts import Judged, Pair
from tests.support.builders import cnp, document, ports, selector
from tests.support.churn import BEGAN_NS
from tests.support.scenario import JOIN


class Story:
    """A node that joins, and what is asked of it; each command has an actor and a second of its own."""

    def __init__(self, *commands: Command, join: JoinNode = JOIN) -> None:
        self._chain, self._world = Chain(), World()
        self.entries: list[Envelope] = []
        self.do(join, *commands)

    def do(self, *commands: Command) -> int:
        """These happen; the position behind them."""
        for command in commands:
            decided, self._world = settle(command, self._world)
            expected = {stream: self._chain.versions.get(stream, 0) for stream, _ in decided}
            made = Proposed(events=decided, expected=expected, actor=f"actor-{len(self.entries)}")
            self.entries += self._chain.extend(draft(made), expected, self._now_ns())[1]
        return len(self.entries)

    def _now_ns(self) -> int:
        """Every command has a second of its own."""
        return BEGAN_NS + len(self.entries) * 1_000_000_000

    @property
    def history(self) -> History:
        """What has happened until now."""
        return History(MemoryReader(self.entries))

    def judge(self, question: Question) -> Judged:
        """The verdict now."""
        return Pair(question, self.history.ledger(self.history.head).facts()).judge()


def applied(name: str, subject: str, **rules: object) -> ApplyPolicies:
    """A policy of that name about the pods labelled `app=<subject>` is applied."""
    return ApplyPolicies(documents=(document(cnp(name, subject=selector(f"app={subject}"), **rules)),))  # type: ignore[arg-type]


def told(join: JoinNode, *commands: Command, refusals: tuple[Refused, ...] = ()) -> tuple[History, list[int]]:
    """The history that the commands lead to, and the position behind each."""
    made = Story(join=join)
    positions = [len(made.entries), *(made.do(one) for one in commands)]
    return History(MemoryReader(made.entries, refusals)), positions


def web(port: str, peer: str = "app=client") -> ApplyPolicies:
    """Pods `app=web` take TCP at that port from these peers, and nothing else."""
    term = {"fromEndpoints": [selector(peer)], "toPorts": ports(f"{port}/TCP")}
    return ApplyPolicies(documents=(document(cnp("web", subject=selector("app=web"), ingress=[term])),))
