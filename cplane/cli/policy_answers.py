"""Answers to probes, as lines: JSON for programs, two lines of text for people."""

from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cplane.domain.policy.explanation import Explanation, RuleHit
    from cplane.k8s.reach import Answer, Reach

_LINES_MAX: Final = 65_536  # texts of answers that are kept, and of their rules


def answers_to(reach: "Reach", lines: list[bytes], first: int, *, table: bool) -> tuple[bytes, int]:
    """The answers to lines, which are numbered from `first`, and how many of them are no probes."""
    from cplane.k8s.probes import BadProbe, parse_probe

    wrong, answers = 0, []
    for number, line in enumerate(lines, first):
        if not line or line.isspace():
            continue
        try:
            answer = reach.answer(parse_probe(line))
        except BadProbe as error:
            answers.append(_error(f"line {number}: {error}", table=table))
            wrong += 1
        else:
            answers.append(_row(line, answer) if table else _line(answer))
    return b"".join(answers), wrong


@lru_cache(maxsize=_LINES_MAX)
def _line(answer: "Answer") -> bytes:
    l7 = b"true" if answer.l7 else b"false"
    egress, ingress = _side(answer.egress), _side(answer.ingress)
    verdict = answer.verdict.encode()
    return b'{"verdict":"%b","l7":%b,"egress":%b,"ingress":%b}\n' % (verdict, l7, egress, ingress)


def _side(one: "Explanation") -> bytes:
    import msgspec

    reason = msgspec.json.encode(one.reason)
    return b'{"verdict":"%b","reason":%b,"rules":%b}' % (one.verdict.encode(), reason, _RULES.encoded(one.rules))


class _EncodedRules:
    """The rules of answers as JSON. Most answers share theirs with many, and there can be hundreds in each."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[object, bytes]] = {}  # by identity: to compare them takes long

    def encoded(self, rules: "tuple[RuleHit, ...]") -> bytes:
        kept = self._kept.get(id(rules))
        if kept is not None:
            return kept[1]
        import msgspec

        if len(self._kept) >= _LINES_MAX:
            self._kept.clear()
        text = msgspec.json.encode(_rules_of(rules))
        self._kept[id(rules)] = rules, text  # held, so that nothing else can have its identity
        return text


_RULES: Final = _EncodedRules()


def side_of(one: "Explanation") -> dict[str, object]:
    """One side of an answer, as JSON has it."""
    return {"verdict": str(one.verdict), "reason": one.reason, "rules": _rules_of(one.rules)}


def _rules_of(rules: "tuple[RuleHit, ...]") -> list[dict[str, str]]:
    return [{**hit.ref._asdict(), "path": hit.path, "selector": hit.selector} for hit in rules]


def _row(line: bytes, answer: "Answer") -> bytes:
    from cplane.cli.format import printable

    sides = (("egress", answer.egress), ("ingress", answer.ingress))
    decided = [f"{name}: {one.reason}" for name, one in sides if one.verdict is answer.verdict]
    verdict = f"{answer.verdict}{' (l7)' if answer.l7 else ''}"
    probe = printable(line.decode(errors="replace").strip())
    return f"{verdict:<13} {probe}\n              {printable('; '.join(decided))}\n".encode()


def _error(message: str, *, table: bool) -> bytes:
    import msgspec

    from cplane.cli.format import printable

    if table:
        return f"{'ERROR':<13} {printable(message)}\n".encode()
    return msgspec.json.encode({"error": message}) + b"\n"
