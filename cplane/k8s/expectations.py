"""Tests of policies: what somebody expects of traffic, as YAML says it."""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from cplane.config.problems import BadText, join
from cplane.config.text import read
from cplane.domain.policy.document import Fields, InvalidPolicy, Place, Reader, did_you_mean, required_text, shown
from cplane.domain.policy.explanation import Explanation, Outcome, RuleHit
from cplane.domain.policy.rule import PolicyRef
from cplane.k8s.objects import WHOLE, Finding, Source, text
from cplane.k8s.ports import Asked, parse_port
from cplane.k8s.probes import BadProbe, Probe, probe_of
from cplane.k8s.reach import Answer, Reach

OUTCOMES: Final = {"allow": Outcome.ALLOWED, "deny": Outcome.DENIED, "audit": Outcome.AUDIT}
_FIELDS: Final = Fields(frozenset({"name", "from", "to", "port", "http", "kafka", "dns", "expect", "because"}))
_REQUESTS: Final = ("http", "kafka", "dns")


class Expectation(NamedTuple):
    """Of this traffic this outcome is expected, and if `because` is not empty, by the word of that policy."""

    where: Finding  # without a message
    name: str
    probe: Probe
    expect: Outcome
    because: str


class Result(NamedTuple):
    """What became of an expectation; `problem` is empty where it was met."""

    expectation: Expectation
    answer: Answer | None
    problem: str


def read_expectations(source: Source) -> tuple[tuple[Expectation, ...], tuple[Finding, ...]]:
    """The expectations of a text, in order, and everything that is wrong with it."""
    try:
        documents = read(source.data)
    except BadText as bad:
        return (), tuple(Finding(source.name, *problem) for problem in bad.errors)
    found: list[Expectation] = []
    wrong: list[Finding] = []
    for document in documents:
        reader = Reader()
        root = reader.root(document.value)
        for index, place in enumerate(root.items()):
            where = Finding(source.name, document.number, join("", index), "")
            one = _expectation(place, where)
            if one is not None:
                found.append(one)
        try:
            reader.result(lambda: None)
        except InvalidPolicy as invalid:
            for path, message in invalid.errors:
                wrong.append(Finding(source.name, document.number, "" if path == WHOLE else path, message))
    if not found and not wrong:
        wrong.append(Finding(source.name, 0, "", "no test: write a list of {from, to, port, expect}"))
    return tuple(found), tuple(wrong)


def check(expectations: Iterable[Expectation], reach: Reach) -> Iterator[Result]:
    """Whether each is met."""
    for one in expectations:
        try:
            answer = reach.answer(one.probe)
        except BadProbe as error:
            yield Result(one, None, str(error))
            continue
        yield Result(one, answer, _problem(one, answer))


def _problem(one: Expectation, answer: Answer) -> str:
    if answer.verdict is not one.expect:
        return f"expected {one.expect}, got {answer.verdict}"
    rules = sorted({rule.ref for rule in _decided(answer)})
    if one.because and not any(one.because in _names(ref) for ref in rules):
        by = ", ".join(str(ref) for ref in rules) or "no policy"
        return f"{answer.verdict} as expected, but not because of {one.because}: by {by}"
    return ""


def _names(ref: PolicyRef) -> tuple[str, ...]:
    """What a policy may be called by: also as answers say it, and as `cplane audit` does."""
    place = f"{ref.namespace}/{ref.name}" if ref.namespace else ref.name
    return ref.name, place, f"{ref.kind} {place}", f"{ref.kind}/{place}"


def _decided(answer: Answer) -> Iterator[RuleHit]:
    """The rules of the sides that made the verdict."""
    sides: tuple[Explanation, ...] = (answer.egress, answer.ingress)
    for side in sides:
        if side.verdict is answer.verdict:
            yield from side.rules


def _expectation(place: Place, where: Finding) -> Expectation | None:
    fields = place.fields(_FIELDS)
    if fields is None:
        return None
    source = required_text(place, fields, "from", "write namespace/pod, node/NAME or an address")
    target = required_text(place, fields, "to", "write namespace/pod, node/NAME, an address or svc:namespace/name")
    expect = required_text(place, fields, "expect", f"write one of {', '.join(OUTCOMES)}")
    if expect is not None and expect not in OUTCOMES:
        advice = did_you_mean(expect, OUTCOMES)
        fields["expect"].refuse(f"unknown outcome {shown(expect)}{advice}; outcomes are {', '.join(OUTCOMES)}")
    asked = _asked(fields.get("port"))
    if source is None or target is None or expect not in OUTCOMES or asked is None:
        return None
    value: dict[str, object] = {"from": source, "to": target, **asked._asdict()}
    value.update((name, fields[name].value) for name in _REQUESTS if name in fields)
    try:
        probe = probe_of(value)
    except BadProbe as error:
        place.refuse(str(error))
        return None
    named = text(fields.get("name")) or f"{source} → {target} {asked}: {expect}"
    return Expectation(where, named, probe, OUTCOMES[expect], text(fields.get("because")))


def _asked(place: Place | None) -> Asked | None:
    if place is None:
        return Asked("TCP")
    if isinstance(place.value, int) and not isinstance(place.value, bool):
        return Asked("TCP", place.value)
    written = place.text()
    if written is None:
        return None
    try:
        return parse_port(written)
    except BadProbe as error:
        place.refuse(str(error))
        return None
