"""What the cookies of policy entries stand for: terms of policies, and the rules that have them."""

from collections.abc import Collection, Iterable, Sized
from typing import Final, NamedTuple

from cplane.domain.policy import Policy, PolicyRef, Rule
from cplane.domain.policy.mapstate import Origin, origin_of
from cplane.domain.policy.resolve import Contribution

_KEPT_MIN: Final = 4096  # fewer cookies or rules than this are kept although nothing has them any more


class _Made(NamedTuple):
    origins: tuple[Origin, ...] = ()
    rules: tuple[tuple[PolicyRef, str], ...] = ()


_NOBODY: Final = _Made()


class Cookies:
    """A record that is read late may name what is gone, so that is forgotten only when there is much of it."""

    def __init__(self) -> None:
        self._made: dict[int, _Made] = {}
        # A cookie says where its terms stand; what stands there may be written anew without another cookie.
        self._rules: dict[tuple[PolicyRef, str], Rule] = {}
        self._forget_rules_at = _KEPT_MIN

    def __contains__(self, cookie: int) -> bool:
        return cookie in self._made

    def add(self, cookie: int, made: Iterable[Contribution]) -> None:
        """The cookie stands for these."""
        found = sorted(made, key=origin_of)
        origins = dict.fromkeys(map(origin_of, found))
        rules = dict.fromkeys((one.ref, one.rule.path) for one in found if one.ref is not None and one.rule is not None)
        self._made[cookie] = _Made(tuple(origins), tuple(rules))

    def write(self, policy: Policy, held: Collection[PolicyRef]) -> None:
        """The policy reads so now; those `held` are there."""
        for rule in policy.rules:
            self._rules[policy.ref, rule.path] = rule
        if len(self._rules) > self._forget_rules_at:
            self._rules = {place: rule for place, rule in self._rules.items() if place[0] in held}
            self._forget_rules_at = max(_KEPT_MIN, 2 * len(self._rules))

    def is_full(self, table: Sized) -> bool:
        """Whether there are many more than so large a table can have."""
        return len(self._made) > _KEPT_MIN and len(self._made) > 2 * len(table)

    def keep(self, live: Collection[int]) -> None:
        """No other cookies are known any more."""
        self._made = {cookie: made for cookie, made in self._made.items() if cookie in live}

    def origins(self, cookie: int) -> tuple[Origin, ...]:
        """The terms, sorted; none for a cookie that is not known any more."""
        return self._made.get(cookie, _NOBODY).origins

    def rules(self, cookie: int) -> tuple[Rule, ...]:
        """The rules that have the terms, in their order; what the language itself adds has none."""
        found = (self._rules.get(place) for place in self._made.get(cookie, _NOBODY).rules)
        return tuple(rule for rule in found if rule is not None)
