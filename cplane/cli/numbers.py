"""Numbers that commands are given: whole ones, and none that its field of a message cannot hold.

protobuf keeps the lower bits of what is too large, which would be somebody else's number.
"""

from typing import Final

import click


class Whole(click.IntRange):
    """A whole number; help shows no upper end, as nobody gets there."""

    name = "number"

    def __init__(self, least: int, bits: int, hint: str = "") -> None:
        super().__init__(min=least)
        self._most = (1 << bits) - 1
        self._hint = hint

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number. Raises click.BadParameter."""
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not a valid integer{self._hint}", param, ctx)
        number = super().convert(number, param, ctx)
        if number > self._most:
            self.fail(f"{number} is larger than {self._most}, the largest that there can be", param, ctx)
        return number


ENDPOINT: Final = Whole(1, 32, ": `cplane endpoint list` shows those of endpoints")
ANY_ENDPOINT: Final = Whole(0, 32, ": `cplane endpoint list` shows those of endpoints")
"""0 is none in particular."""
POSITION: Final = Whole(0, 64)
COUNT: Final = Whole(1, 64)
