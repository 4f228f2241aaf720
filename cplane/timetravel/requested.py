"""Rules of layer 7 that let requests pass which were seen, and as few others as can be written down.

Where a rule lets more pass than was seen, a note says so: a place in paths where identifiers differed, a query, or one
rule in the place of very many.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final, NamedTuple

from cplane.domain.fqdn import name_problem
from cplane.domain.policy.kafka import API_KEYS, ROLES, KafkaRequest, KafkaRule, names_topics
from cplane.timetravel.asked import Asked, AskedHttp

RULES_MAX: Final = 40
"""Of one port. More are folded."""

_ALIKE: Final = 5  # so many in one place may become any in that place, where there are too many rules
_PATH_MAX: Final = 1024  # characters
_EXAMPLES: Final = 3
_META: Final = re.compile(r"[\\.+*?()|\[\]{}^$]")
_NUMBER: Final = re.compile(r"[0-9]+")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HEXADECIMAL: Final = re.compile(r"(?=[^0-9]*[0-9])[0-9a-fA-F]{8,}")
_ANY_SEGMENT: Final = "[^/?]+"

Rule = dict[str, Any]  # Any: as JSON


class Proposed(NamedTuple):
    """What stands in `rules` of a port, by protocol; empty: nothing may pass. `notes`: what else it lets pass."""

    rules: dict[str, list[Rule]]
    notes: tuple[str, ...] = ()


def proposed(requests: Collection[Asked]) -> Proposed | None:
    """Rules for what was asked at a port; None: they are of several protocols, which no port can have."""
    kinds = {type(one) for one in requests}
    if not kinds:
        return Proposed({})
    if len(kinds) > 1:
        return None
    notes: list[str] = []
    if kinds == {str}:
        return Proposed({"dns": _dns([one for one in requests if isinstance(one, str)], notes)}, tuple(notes))
    if kinds == {AskedHttp}:
        return Proposed({"http": _http([one for one in requests if isinstance(one, AskedHttp)], notes)}, tuple(notes))
    kafka = [one for one in requests if isinstance(one, KafkaRequest)]
    return Proposed({"kafka": _kafka(kafka, notes)}, tuple(notes))


# ---- HTTP


class _Path(NamedTuple):
    """A rule for paths: an expression for each segment, and one for what follows them."""

    method: str
    segments: tuple[str, ...]
    query: str

    @property
    def text(self) -> str:
        return "/".join(self.segments) + self.query


class _Alike:
    """Paths that differ in identifiers at most."""

    def __init__(self) -> None:
        self.paths: dict[tuple[str, ...], None] = {}
        self.queries: set[bool] = set()


def _http(requests: Iterable[AskedHttp], notes: list[str]) -> list[Rule]:
    groups: dict[tuple[str, tuple[str, ...]], _Alike] = {}
    whole: set[str] = set()
    for one in sorted(requests):
        path, mark, _ = one.path.partition("?")
        if len(path) > _PATH_MAX:
            whole.add(one.method)
            continue
        segments = tuple(path.split("/"))
        held = groups.setdefault((one.method, tuple(_class(each) or _literal(each) for each in segments)), _Alike())
        held.paths[segments] = None
        held.queries.add(bool(mark))
    rules = [_generalised(method, shape, held, notes) for (method, shape), held in groups.items()]
    if any(one.query for one in rules):
        notes.append(r"HTTP: \?.* is any query, as one was seen")
    rules = _fewer(rules, notes)
    if len(rules) > RULES_MAX:
        whole.update(one.method for one in rules)
    because = "as there are too many, or longer ones than can be written down"
    notes += [f"HTTP: {method} of any path, {because}" for method in sorted(whole)]
    left = (one for one in sorted(rules) if one.method not in whole)
    return [
        *({"method": _literal(method)} for method in sorted(whole)),
        *({"method": _literal(one.method), "path": one.text} for one in left),
    ]


def _generalised(method: str, shape: tuple[str, ...], held: _Alike, notes: list[str]) -> _Path:
    """Identifiers that were always the same stay what they are; where they differed, any of their kind may stand."""
    paths = list(held.paths)
    differs = [len({path[place] for path in paths}) > 1 for place in range(len(shape))]
    segments = tuple(
        expression if varied else _literal(first)
        for expression, varied, first in zip(shape, differs, paths[0], strict=True)
    )
    query = "" if held.queries == {False} else r"\?.*" if held.queries == {True} else r"(\?.*)?"
    made = _Path(method, segments, query)
    if any(differs):
        notes.append(f"HTTP: {method} {made.text} stands for {_examples(['/'.join(one) for one in paths])}")
    return made


def _fewer(rules: list[_Path], notes: list[str]) -> list[_Path]:
    """Where there are too many, any segment may stand where many different ones were, the last places first."""
    deepest = max((len(one.segments) for one in rules), default=0)
    for place in range(deepest - 1, 0, -1):
        if len(rules) <= RULES_MAX:
            break
        groups: dict[_Path, list[_Path]] = {}
        for one in rules:
            anything = (*one.segments[:place], _ANY_SEGMENT, *one.segments[place + 1 :])
            groups.setdefault(one._replace(segments=anything) if place < len(one.segments) else one, []).append(one)
        rules = []
        for wide, narrow in groups.items():
            if len(narrow) < _ALIKE:
                rules += narrow
                continue
            rules.append(wide)
            notes.append(f"HTTP: {wide.method} {wide.text} stands for {_examples([one.text for one in narrow])}")
    return rules


def _class(segment: str) -> str:
    """An expression for identifiers like this one; empty: it looks like none."""
    if _NUMBER.fullmatch(segment):
        return "[0-9]+"
    letters = "".join(case for case in ("a-f", "A-F") if re.search(f"[{case}]", segment))
    digit = f"[0-9{letters}]"
    if _UUID.fullmatch(segment):
        return f"{digit}{{8}}(-{digit}{{4}}){{3}}-{digit}{{12}}"
    if _HEXADECIMAL.fullmatch(segment):
        return f"{digit}{{{len(segment)}}}"
    return ""


def _literal(text: str) -> str:
    """An expression for the text itself; RE2 wants no other characters to be escaped."""
    return _META.sub(r"\\\g<0>", text)


# ---- DNS


def _dns(names: Iterable[str], notes: list[str]) -> list[Rule]:
    known = sorted({one.removesuffix(".") for one in names})
    written = [one for one in known if not name_problem(one)]
    if len(written) < len(known):
        notes.append(f"DNS: left out, as they cannot be written down: {len(known) - len(written)} names")
    parents = Counter(one.partition(".")[2] for one in written)
    folded = {parent for parent, count in parents.items() if parent and count >= _ALIKE}
    if len(written) <= RULES_MAX:
        folded = set()
    rules: list[Rule] = [{"matchName": one} for one in written if one.partition(".")[2] not in folded]
    for parent in sorted(folded):
        rules.append({"matchPattern": f"*.{parent}"})
        stands = [one for one in written if one.partition(".")[2] == parent]
        notes.append(f"DNS: *.{parent} stands for {_examples(stands)}")
    if not rules or len(rules) > RULES_MAX:
        notes.append(f"DNS: any name, as {len(written) or len(known)} are too many, or cannot be written down")
        return [{"matchPattern": "*"}]
    return rules


ANY_NAME: Final = Proposed({"dns": [{"matchPattern": "*"}]})


# ---- Kafka


def _kafka(requests: Iterable[KafkaRequest], notes: list[str]) -> list[Rule]:
    keys: dict[str, set[int]] = {}  # by topic; empty: none
    for one in requests:
        for topic in one.topics or ("",):
            keys.setdefault(topic, set()).add(one.api_key)
    rules = dict.fromkeys(rule for topic, asked in sorted(keys.items()) if topic for rule in _of_topic(topic, asked))
    for key in sorted(keys.get("", ())):
        if not any(_covers(rule, key) for rule in rules):
            rules[_Kafka(name=_name(key))] = None
    if len(rules) > RULES_MAX:
        notes.append(f"Kafka: any topic, as {len(keys)} are too many")
        rules = dict.fromkeys(one._replace(topic="") for one in rules)
    elif any(one.role for one in rules):
        notes.append("Kafka: a role stands for all requests that a producer or a consumer makes")
    return [one.written() for one in rules]


class _Kafka(NamedTuple):
    role: str = ""
    name: str = ""
    topic: str = ""

    def written(self) -> Rule:
        """As it stands in a policy."""
        fields = (("role", self.role), ("apiKey", self.name), ("topic", self.topic))
        return {key: value for key, value in fields if value}


def _of_topic(topic: str, asked: set[int]) -> Iterator[_Kafka]:
    """A role where a producer or consumer was seen, and each other request by itself."""
    left = set(asked)
    for role, begins in (("produce", {"produce"}), ("consume", {"fetch", "offsets", "offsetcommit", "offsetfetch"})):
        if left & {API_KEYS[one] for one in begins}:
            yield _Kafka(role=role, topic=topic)
            left -= ROLES[role]
    yield from (_Kafka(name=_name(key), topic=topic if names_topics(key) else "") for key in sorted(left))


def _covers(rule: _Kafka, key: int) -> bool:
    """Whether it lets a request without a topic pass."""
    keys = ROLES[rule.role] if rule.role else frozenset({API_KEYS[rule.name]})
    return KafkaRule(keys, topic=rule.topic).matches(KafkaRequest(key), rule.topic or None)


def _name(key: int) -> str:
    return next(name for name, number in API_KEYS.items() if number == key)


def _examples(texts: Collection[str]) -> str:
    """`7 seen: /a, /b, /c, …`."""
    shown = ", ".join(list(texts)[:_EXAMPLES])
    return f"{len(texts)} seen: {shown}{', …' if len(texts) > _EXAMPLES else ''}"
