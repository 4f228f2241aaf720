"""`cplane policy eval`: what would become of traffic, for a stream of probes."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, runtime_checkable

import click

from cplane.cli.manifests import STDIN, Offline, paths_option, reach_of, scene_of, scene_options
from cplane.cli.session import REFUSED

if TYPE_CHECKING:
    from cplane.domain.policy.explanation import Explanation, RuleHit
    from cplane.k8s.reach import Answer, Reach

_CHUNK_BYTES: Final = 1 << 18
_LINE_BYTES_MAX: Final = 1 << 20
_LINES_MAX: Final = 65_536  # texts of answers that are kept, and of their sides


@runtime_checkable
class _Arriving(Protocol):
    """A stream that can give what has come so far."""

    def read1(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""
        ...


_EPILOG: Final = """\b
A probe:   {"from": "shop/web", "to": "shop/api", "protocol": "TCP", "port": 80}
An answer: {"verdict": "ALLOWED|DENIED|AUDIT", "l7": false, "egress": {...}, "ingress": {...}}
"""


@click.command("eval", cls=Offline, epilog=_EPILOG)
@paths_option
@click.option("--probes", required=True, metavar="FILE", help="Questions, one JSON object on each line; - is stdin.")
@scene_options
@click.option(
    "-o",
    "--output",
    type=click.Choice(["jsonl", "table"]),
    default="jsonl",
    show_default=True,
    help="How to print the answers.",
)
def evaluate(
    *, paths: tuple[str, ...], probes: str, cluster: str, enforcement: str, audited: tuple[str, ...], output: str
) -> None:
    """Judge probes by the policies in the files: offline, with the code that fills the kernel's maps.

    Ends are namespace/pod, node/NAME or an address; `to` may be svc:namespace/name, where the worst backend
    counts. Ports may be names; ICMP has icmp_type. Over ports that go to a proxy, http, kafka or dns is what
    is asked; without it the answer has "l7": true. A line that is no probe is answered with {"error": ...},
    and the exit code is 1.
    """
    if probes == STDIN and STDIN in paths:
        raise click.UsageError("standard input cannot hold both manifests and probes")
    reach = reach_of(scene_of(paths, cluster=cluster, enforcement=enforcement), audited)
    with _without_collector():
        wrong = _answer_all(reach, probes, table=output == "table")
    if wrong:
        raise SystemExit(REFUSED)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Answers are made of nothing that has cycles; to look for some in all that is kept takes a third of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _answer_all(reach: "Reach", probes: str, *, table: bool) -> int:
    """Answers every line as it comes; how many of them were no probes."""
    if probes == STDIN:
        return _stream(reach, sys.stdin.buffer, table=table)
    try:
        opened = Path(probes).open("rb")  # noqa: SIM115  # only this may fail so
    except OSError as error:
        raise click.UsageError(f"{probes}: {error.strerror or error}") from None
    with opened:
        return _stream(reach, opened, table=table)


def _stream(reach: "Reach", source: BinaryIO, *, table: bool) -> int:
    wrong = number = 0
    out = sys.stdout.buffer
    for lines in _batches(source):
        answers = []
        for line in lines:
            number += 1
            if line and not line.isspace():
                text, good = _answer(reach, line, number, table=table)
                answers.append(text)
                wrong += not good
        out.write(b"".join(answers))
        out.flush()  # whoever asks one by one has the answer before asking again
    return wrong


def _batches(source: BinaryIO) -> Iterator[list[bytes]]:
    """The lines that are there, in as few lists as they come in."""
    rest = b""
    while chunk := _arrived(source):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > _LINE_BYTES_MAX:
            raise click.UsageError(f"a probe is longer than {_LINE_BYTES_MAX} bytes")
        yield lines
    yield [rest]


def _arrived(source: BinaryIO) -> bytes:
    """What is there, where the stream can tell without waiting for more."""
    return source.read1(_CHUNK_BYTES) if isinstance(source, _Arriving) else source.read(_CHUNK_BYTES)


def _answer(reach: "Reach", line: bytes, number: int, *, table: bool) -> tuple[bytes, bool]:
    """The answer to a line, and whether it was a probe."""
    from cplane.k8s.probes import BadProbe, parse_probe

    try:
        answer = reach.answer(parse_probe(line))
    except BadProbe as error:
        return _error(f"line {number}: {error}", table=table), False
    return (_row(line, answer) if table else _line(answer)), True


@lru_cache(maxsize=_LINES_MAX)
def _line(answer: "Answer") -> bytes:
    l7 = b"true" if answer.l7 else b"false"
    egress, ingress = _side(answer.egress), _side(answer.ingress)
    verdict = answer.verdict.encode()
    return b'{"verdict":"%b","l7":%b,"egress":%b,"ingress":%b}\n' % (verdict, l7, egress, ingress)


@lru_cache(maxsize=_LINES_MAX)
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
