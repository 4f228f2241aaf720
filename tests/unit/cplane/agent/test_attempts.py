"""What is done again and again."""

import pytest

from cplane.agent.attempts import Attempts
from cplane.errors import Unavailable
from datapath.errors import Corrupt
from datapath.netlink.errors import KernelRefused

pytestmark = pytest.mark.anyio


class Failing:
    """Raises these, one after another; then it works."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    async def __call__(self) -> int:
        if self.errors:
            raise self.errors.pop(0)
        return 7


async def test_each_new_hindrance_is_told_and_ends_nothing() -> None:
    refused, full = KernelRefused("look", 12), OSError(28, "No space left on device")
    failing, told = Failing(refused, refused, full, Unavailable("the log is away")), list[str]()
    attempts = Attempts(failing, told.append)
    assert [await attempts.once() for _ in range(5)] == [None, None, None, None, 7]
    assert told == [str(refused), str(full), "the log is away"]
    failing.errors.append(refused)
    assert await attempts.once() is None
    failing.errors.append(refused)
    assert await attempts.once() is None
    assert told[3:] == [str(refused)]


async def test_what_is_spoilt_is_not_tried_again() -> None:
    with pytest.raises(Corrupt):
        await Attempts(Failing(Corrupt("no pins")), lambda _: None).once()
