"""The reference lookup is what the kernel does: random policies, identities and packets, verdict by verdict."""

import json
from random import Random

import pytest

from tests.support.differential import Answer, Kernel, Question, Scene, expected, frame_of, questions, scene
from tests.support.kernel import Node

pytestmark = [pytest.mark.root, pytest.mark.slow]

SEEDS = range(10)
SCENES = 25  # of each seed
BATCH = 400  # questions about each scene; fewer than the ring of the tests has room for


def answers(kernel: Kernel, one: Scene, asked: list[Question], wanted: list[Answer]) -> list[Answer]:
    """The kernel's, in order. A record belongs to the question that is wanted to have one: were there one more or one
    less, those behind it would not fit.
    """
    kernel.show(one)
    passed = [kernel.passes(question, frame_of(question, number)) for number, question in enumerate(asked)]
    told = iter(kernel.told())
    found = [
        Answer(passes, next(told, None) if answer.told else None) for passes, answer in zip(passed, wanted, strict=True)
    ]
    assert next(told, None) is None, "a record too many"
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_ten_thousand_packets_are_judged_as_the_policies_say(net: Node, seed: int, record_property) -> None:
    chance = Random(seed)
    kernel = Kernel(net)
    seen: dict[tuple[int, bool], int] = {}
    for _ in range(SCENES):
        one = scene(chance)
        asked = list(questions(one, BATCH, chance))
        wanted = [expected(one, question) for question in asked]
        for question, right, answer in zip(asked, wanted, answers(kernel, one, asked, wanted), strict=True):
            assert answer == right, f"{question}\n{one.about}\n{json.dumps(one.documents)}"
            if right.told is not None:
                kind = (right.told.verdict, right.told.audited)
                seen[kind] = seen.get(kind, 0) + 1
    assert {(0, False), (-133, False), (-157, False), (-181, False), (-133, True), (-181, True)} <= seen.keys()
    record_property("verdicts", {f"{verdict}{' audited' if audit else ''}": n for (verdict, audit), n in seen.items()})
