"""What a terminal is sent: text that it cannot mistake for orders, and colours where they are wanted."""

import os
import sys
from collections.abc import Mapping
from typing import Final

_RESET: Final = "\033[0m"
# the two that upstream's command spells in a way of its own
_SPELLED: Final = {"\033": "^[", "\r": "\\r", "\n": "\\n", "\t": "\\t"}


def escape(text: str) -> str:
    """The text with every character that is not printed spelled out: names in flows are other people's words."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _spell(c) for c in text)


def _spell(character: str) -> str:
    spelled = _SPELLED.get(character)
    return spelled if spelled is not None else character.encode("unicode_escape").decode()


def wants_colours(when: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `auto`, `always` or `never` means colours on our standard output."""
    if when == "auto":
        return sys.stdout.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
    return when == "always"


class Colours:
    """Paints what a line consists of; leaves it as it is where no colours are wanted."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted

    def host(self, text: str) -> str:
        """A name or an address, with its port."""
        return self._paint("36", text)

    def port(self, text: str) -> str:
        """A port, inside a host."""
        return self._paint("33", text)

    def identity(self, text: str) -> str:
        """Who that is, for policies."""
        return self._paint("35", text)

    def good(self, text: str) -> str:
        """Forwarded, allowed, authenticated."""
        return self._paint("32", text)

    def bad(self, text: str) -> str:
        """Dropped, denied, failed."""
        return self._paint("31", text)

    def notable(self, text: str) -> str:
        """Audited, traced, translated."""
        return self._paint("33", text)

    def _paint(self, colour: str, text: str) -> str:
        return f"\033[{colour}m{text}{_RESET}" if self._wanted and text else text
