"""`cplane why` on a database with the logs of several nodes: each end's node is asked, and both answers are shown."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from cplane.cli.format import printable
from cplane.cli.timetravel import ask_opened, blaming
from cplane.cli.why_text import Node, parts
from cplane.terminal.progress import Told

if TYPE_CHECKING:
    from cplane.timetravel.across import NodeAnswer, WhyAcross
    from cplane.timetravel.history import History
    from cplane.timetravel.traffic import Question


def is_of_nodes(log: str | None) -> bool:
    """Whether the log is a database of several nodes, and none is named. Ends the process when it cannot be asked."""
    if log is None or not log.startswith(("postgresql://", "postgres://")):
        return False

    def opened(_: Told) -> AbstractContextManager[bool]:
        from cplane.eventlog.postgres_nodes import names_no_node

        return names_no_node(log)

    return ask_opened(opened, lambda found, _: found)


def ask_nodes(log: str, question: "Question", at: str) -> "WhyAcross":
    """The answer of the nodes that have the ends. Ends the process when there is none."""

    def opened(told: Told) -> "AbstractContextManager[dict[str, History]]":
        from cplane.eventlog.postgres_nodes import open_nodes

        return open_nodes(log, question, told)

    def answer(nodes: "dict[str, History]", now_ns: int) -> "WhyAcross":
        from cplane.eventlog.verify import with_node
        from cplane.timetravel.across import why_across

        with blaming(*(with_node(log, node) for node in nodes)):
            return why_across(nodes, now_ns, question, at=at)

    return ask_opened(opened, answer)


def answer_of(found: "WhyAcross") -> str:
    """The answer on one line."""
    asked = next(iter(found.answers)).why.request
    what = f"{found.traffic}{f' {asked}' if asked else ''}"
    return printable(f"{found.verdict}: {found.source} to {found.destination}, {what} (by node {found.node})")


def parts_of(found: "WhyAcross") -> Iterator[Node]:
    """All that is said behind it: the reason, what nodes did not know, and the answer of each node."""
    decided = f"{found.direction}: " if found.direction else ""
    yield Node("why", (Node(f"{decided}{found.reason}"),))
    if found.notes:
        yield Node("what was not known", tuple(map(Node, found.notes)))
    for one in found.answers:
        yield _answer(one)


def _answer(one: "NodeAnswer") -> Node:
    when = f"position {one.why.position}{f', {one.why.time}' if one.why.time else ''}"
    return Node(f"node {one.node}: {one.why.verdict} ({when} of its log)", tuple(parts(one.why)))
