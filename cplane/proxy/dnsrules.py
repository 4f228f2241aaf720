"""Who may ask for which names: the rules of one proxy port."""

from typing import Final

from cplane.domain.policy.rule import PolicyRef
from cplane.domain.verdict import Direction
from cplane.proxy.channel import PutDns

_REMEMBERED: Final = 4096  # names; more begin anew


class Rules:
    """The rules of a port. Without any, nothing may be asked for."""

    def __init__(self, put: PutDns) -> None:
        self.port, self.direction = put.port, Direction(put.direction)
        self._terms = put.rules
        self._known: dict[str, tuple[PolicyRef, ...] | None] = {}

    def allowing(self, name: str) -> tuple[PolicyRef, ...] | None:
        """The policies by which the name may be asked for, each once; None: it may not. The name is canonical.

        What the language itself allows is no policy's: then there may be none.
        """
        if name in self._known:
            return self._known[name]
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        found = self._known[name] = self._allowing(name)
        return found

    def _allowing(self, name: str) -> tuple[PolicyRef, ...] | None:
        met = [term for term in self._terms if term.rules is None or any(rule.matches(name) for rule in term.rules)]
        if not met:
            return None
        return tuple(dict.fromkeys(term.ref for term in met if term.ref is not None))
