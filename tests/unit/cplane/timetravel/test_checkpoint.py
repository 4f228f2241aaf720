"""A checkpoint says what a log said at a position, in bytes that are the same for ever."""

from random import Random

import pytest

from cplane.eventlog.reader import MemoryReader
from cplane.timetravel.checkpoint import BadCheckpoint, Checkpoint, Signature, checkpoint, read_checkpoint
from cplane.timetravel.history import History, NoSuchMoment
from tests.support import churn

NOW_NS = 1 << 62
ONE = Checkpoint("default", "n1", 1234, "ab" * 32, 1_767_225_600_000_000_000)
TEXT = (
    "cplane-checkpoint 1\ncluster default\nnode n1\nposition 1234\n"
    f"digest {'ab' * 32}\nrecorded-at-ns 1767225600000000000\n"
)


@pytest.fixture(scope="module")
def entries():
    return churn.recorded(Random(9), 20)[1]


def test_its_bytes_are_those_that_were_released() -> None:
    assert ONE.text() == TEXT
    assert read_checkpoint(TEXT) == (ONE, None)
    signature = Signature(b"\x01" * 32, b"\x02" * 64)
    assert read_checkpoint(TEXT + signature.line()) == (ONE, signature)
    assert signature.line() == f"signature ed25519 {'01' * 32} {'02' * 64}\n"


@pytest.mark.parametrize("at", ["head", "7"])
def test_it_says_what_the_log_says(entries, at: str) -> None:
    found = checkpoint(History(MemoryReader(entries)), NOW_NS, at=at)
    one = entries[-1] if at == "head" else entries[6]
    assert found == Checkpoint("default", "n1", one.position, one.digest.hex(), one.recorded_at_ns)


def test_there_is_none_of_a_log_without_events() -> None:
    with pytest.raises(NoSuchMoment, match="nothing to keep"):
        checkpoint(History(MemoryReader([])), NOW_NS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello\n",
        TEXT[:-1],
        TEXT + "\n",
        "\n" + TEXT,
        TEXT.replace("position 1234", "position 01234"),
        TEXT.replace("position 1234", "position ١٢٣٤"),
        TEXT.replace("position", "positron"),
        TEXT.replace("ab", "AB"),
        TEXT.replace("checkpoint 1", "checkpoint 2"),
        TEXT + "signature ed25519 00 00\n",
        TEXT.replace("recorded-at-ns 1767225600000000000", "recorded-at-ns -0"),
        TEXT.replace("\n", "\r\n"),
    ],
)
def test_what_is_written_in_any_other_way_is_none(text: str) -> None:
    with pytest.raises(BadCheckpoint, match="is no checkpoint"):
        read_checkpoint(text)
