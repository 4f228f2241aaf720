"""How much the tests try that try anything."""

import os
from typing import Final

_SHARE: Final = 3 if os.environ.get("CPLANE_TEST_EFFORT") == "quick" else 1


def examples(count: int) -> int:
    """So many examples, or a third of them where an answer is wanted soon (`scripts/test fast`)."""
    return max(count // _SHARE, 5)
