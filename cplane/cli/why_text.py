"""What `cplane why` found, for people: the answer first, then the reason, who and when, and what would allow it."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from cplane.cli.diff import author_line
from cplane.cli.format import printable

if TYPE_CHECKING:
    from rich.tree import Tree

    from cplane.timetravel.resolved import NameShown
    from cplane.timetravel.served import ServedShown
    from cplane.timetravel.why import EndShown, NearestShown, RuleShown, SideShown, TurnShown, Why

_ABSENT = "ABSENT"
_WIDTH = 160  # of a tree that is not on a terminal


class Node(NamedTuple):
    """A line or a few, and what belongs to them."""

    text: str
    under: "tuple[Node, ...]" = ()


def lines(found: "Why") -> Iterator[str]:
    """The answer as text."""
    yield _answer(found)
    for part in parts(found):
        yield ""
        yield from text_of(part, 0)


def tree(found: "Why") -> str:
    """The answer as a tree."""
    return grown(_answer(found), parts(found))


def grown(answer: str, parts: Iterable[Node]) -> str:
    """Answer and parts as a tree."""
    from io import StringIO

    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    def grow(branch: "Tree", nodes: Iterable[Node]) -> None:
        for one in nodes:
            grow(branch.add(Text("\n".join(map(printable, one.text.splitlines())))), one.under)

    root = Tree(Text(answer))
    grow(root, parts)
    console = Console(file=StringIO(), width=_WIDTH, highlight=False)
    console.print(root)
    written = console.file
    assert isinstance(written, StringIO), "it was made so"
    return written.getvalue()


def turn_nodes(turn: "TurnShown") -> Iterator[Node]:
    """The event that changed something: who, when, from what to what, and the policy before and after."""
    yield Node(f"{turn.before} before, {turn.after} after")
    yield Node(author_line(turn.event))
    if turn.diff:
        yield Node(turn.object, (Node("\n".join(turn.diff.splitlines()[2:])),))


def _answer(found: "Why") -> str:
    asked = f" {found.request}" if found.request else ""
    when = f"position {found.position}{f', {found.time}' if found.time else ''}"
    return printable(
        f"{found.verdict}: {found.source.name} to {found.destination.name}, {found.traffic}{asked} ({when})"
    )


def parts(found: "Why") -> Iterator[Node]:
    """All that is said behind the answer itself."""
    if found.flow is not None:
        yield Node(*_flow(found))
    if found.service is not None:
        yield _service(found.service)
    decided = f"{found.direction}: " if found.direction else ""
    yield Node("why", (Node(f"{decided}{found.reason}"),))
    for side in found.sides:
        if side.rules or side.direction != found.direction:
            yield _side(side)
    if found.names:
        yield Node("names", tuple(map(_name, found.names)))
    yield _turned(found)
    near = [side.nearest for side in found.sides if side.nearest is not None and side.verdict != "ALLOWED"]
    if near:
        yield Node("what would have allowed it", tuple(map(_nearest, near)))
    yield _end("from", found.source)
    yield _end("to", found.destination)


def _flow(found: "Why") -> tuple[str, tuple[Node, ...]]:
    flow = found.flow
    assert flow is not None, "a flow was asked about"
    reason = f" ({flow.reason})" if flow.reason else ""
    told = Node(f"{flow.verdict}{reason} at {flow.time}, when the log was at position {flow.head}")
    notes = tuple(Node(note) for note in flow.note.split("; ") if note)
    return f"flow {flow.uuid}", (told, *notes)


def _service(one: "ServedShown") -> Node:
    if not one.backend:
        said = "no backend takes connections: they are refused before a policy is asked"
    elif one.backends == 1:
        said = f"connections go to {one.backend}, which was judged"
    else:
        rest = f" ({one.left} others were not looked at)" if one.left else ""
        said = f"connections go to one of {one.backends} backends; judged is the worst off, {one.backend}{rest}"
    return Node(f"{one.frontend} is of service {one.name}", (Node(said),))


def _side(side: "SideShown") -> Node:
    said = () if side.rules else (Node(side.reason),)
    more = (Node(f"and {side.more} more rules"),) if side.more else ()
    l7 = " (a proxy judges requests)" if side.l7 else ""
    return Node(
        f"{side.direction} of {side.end}: {side.verdict}{l7}", (*said, *(_rule(one) for one in side.rules), *more)
    )


def _rule(one: "RuleShown") -> Node:
    text = (Node(one.yaml),) if one.yaml else ()
    return Node(f"{one.policy}, {one.path}, matches {one.selector}", (_put(one), *text))


def _name(one: "NameShown") -> Node:
    return Node(one.text, () if one.event is None else (Node(author_line(one.event)),))


def _put(one: "RuleShown") -> Node:
    return Node(author_line(one.put) if one.put is not None else "put there before the log begins")


def _nearest(found: "NearestShown") -> Node:
    rule = found.rule
    lacks = tuple(Node(text) for text in found.lacks)
    return Node(f"{rule.policy}, {rule.path}, but:", (*lacks, _put(rule)))


def _turned(found: "Why") -> Node:
    if found.turned is not None:
        since = "so since it began" if found.turned.before == _ABSENT else "last changed"
        return Node(since, tuple(turn_nodes(found.turned)))
    if found.complete:
        return Node("last changed", (Node("never, in this log"),))
    return Node(
        "last changed",
        (Node(f"not behind position {found.searched_from}; what was before was not looked at, as it is too much"),),
    )


def _end(word: str, one: "EndShown") -> Node:
    what = f"endpoint {one.endpoint}, " if one.endpoint else ""
    address = f", {one.address}" if one.address and one.address != one.name else ""
    events = [one.created] if one.created is not None else []
    if one.changed is not None and one.changed != one.created:
        events.append(one.changed)
    return Node(
        f"{word} {one.name} ({what}identity {one.identity}{address})",
        (
            Node(" ".join(label.removesuffix("=") for label in one.labels) or "no labels"),
            *(Node(author_line(event)) for event in events),
        ),
    )


def text_of(node: Node, depth: int) -> Iterator[str]:
    """Its lines, each further in than what it belongs to."""
    for line in node.text.splitlines():
        yield printable(f"{'  ' * depth}{line}")
    for one in node.under:
        yield from text_of(one, depth + 1)
