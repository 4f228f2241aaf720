"""Which identities each selector selects, kept while identities come and go.

Selectors are interned: rules that name the same peers share one set of identities. Both sides are indexed by label,
so an identity that comes meets only the selectors that could match it, and a selector only such identities.
"""

from collections.abc import Iterable, Iterator

from cplane.domain.cidr import Prefix, PrefixIndex
from cplane.domain.labels import LabelSet
from cplane.domain.selectors import CidrSelector, LabelSelector, Operator, Requirement, Selector


class CachedSelector:
    """A selector and the `numbers` it selects now. One object for each selector in use, compared by identity.

    After its last user has released it, the object keeps the numbers that it had.
    """

    __slots__ = ("numbers", "selector", "users")

    def __init__(self, selector: Selector) -> None:
        self.selector = selector
        self.numbers: set[int] = set()
        self.users = 0

    def __repr__(self) -> str:
        return f"CachedSelector({self.selector}, {len(self.numbers)} identities, {self.users} users)"


_Bucket = dict[CachedSelector, None]


class SelectorCache:
    """Selectors in use × identities in existence. Numbers are identities; 0 is none."""

    def __init__(self) -> None:
        self._cached: dict[Selector, CachedSelector] = {}
        self._identities: dict[int, tuple[LabelSet, Prefix | None]] = {}
        self._numbers_of: dict[str, dict[str, set[int]]] = {}  # key → value → numbers
        self._numbers_in: PrefixIndex[int] = PrefixIndex()
        self._index = _SelectorIndex()
        self._cidr_selectors: PrefixIndex[CachedSelector] = PrefixIndex()

    def __len__(self) -> int:
        return len(self._cached)

    def __contains__(self, number: int) -> bool:
        return number in self._identities

    def intern(self, selector: Selector) -> CachedSelector:
        """The shared object for the selector, with one user more."""
        cached = self._cached.get(selector)
        if cached is None:
            cached = self._cached[selector] = CachedSelector(selector)
            if isinstance(selector, CidrSelector):
                self._cidr_selectors.add(selector.prefix, cached)
            else:
                self._index.add(cached, selector)
            cached.numbers.update(self._selected(selector))
        cached.users += 1
        return cached

    def release(self, cached: CachedSelector) -> None:
        """One user less; without any the selector is forgotten."""
        cached.users -= 1
        assert cached.users >= 0, f"{cached!r} was released more often than it was interned"
        if cached.users:
            return
        selector = cached.selector
        del self._cached[selector]
        if isinstance(selector, CidrSelector):
            self._cidr_selectors.remove(selector.prefix, cached)
        else:
            self._index.discard(cached)

    def selecting(self, number: int) -> tuple[CachedSelector, ...]:
        """The selectors that select an identity that exists."""
        return tuple(self._selecting(*self._identities[number]))

    def add(self, number: int, labels: LabelSet, prefix: Prefix | None = None) -> tuple[CachedSelector, ...]:
        """An identity exists; those that select it. `prefix`: what it stands for outside the cluster, if anything."""
        assert number not in self._identities, f"identity {number} exists already"
        self._identities[number] = (labels, prefix)
        for label in labels:
            self._numbers_of.setdefault(label.key, {}).setdefault(label.value, set()).add(number)
        if prefix is not None:
            self._numbers_in.add(prefix, number)
        selecting = tuple(self._selecting(labels, prefix))
        for cached in selecting:
            cached.numbers.add(number)
        return selecting

    def remove(self, number: int) -> tuple[CachedSelector, ...]:
        """An identity does not exist any more; those that selected it. Nothing happens when it did not exist."""
        if number not in self._identities:
            return ()
        labels, prefix = self._identities.pop(number)
        for label in labels:
            values = self._numbers_of[label.key]
            values[label.value].discard(number)
            if not values[label.value]:
                del values[label.value]
                if not values:
                    del self._numbers_of[label.key]
        if prefix is not None:
            self._numbers_in.remove(prefix, number)
        selecting = tuple(self._selecting(labels, prefix))
        for cached in selecting:
            cached.numbers.discard(number)
        return selecting

    def _selecting(self, labels: LabelSet, prefix: Prefix | None) -> Iterator[CachedSelector]:
        for cached in self._index.candidates(labels):
            selector = cached.selector
            if isinstance(selector, LabelSelector) and selector.matches(labels):
                yield cached
        if prefix is None:
            return
        for cached in self._cidr_selectors.containing(prefix):
            selector = cached.selector
            if isinstance(selector, CidrSelector) and selector.matches(prefix):
                yield cached

    def _selected(self, selector: Selector) -> Iterator[int]:
        if isinstance(selector, CidrSelector):
            for number in self._numbers_in.within(selector.prefix):
                if selector.matches(self._identities[number][1]):
                    yield number
            return
        for number in self._candidates(selector):
            if selector.matches(self._identities[number][0]):
                yield number

    def _candidates(self, selector: LabelSelector) -> Iterable[int]:
        """The identities that the most selective requirement leaves; all, where none leaves fewer."""
        best: list[set[int]] | None = None
        for one in selector.requirements:
            if not one.is_indexed:
                continue
            values = self._numbers_of.get(one.key, {})
            if one.operator is Operator.IN:
                sets = [values[value] for value in one.values if value in values]
            elif one.operator is Operator.EXISTS:
                sets = list(values.values())
            else:
                continue
            if best is None or sum(map(len, sets)) < sum(map(len, best)):
                best = sets
        if best is None:
            return self._identities
        return best[0] if len(best) == 1 else set().union(*best)


class _SelectorIndex:
    """Label selectors, each under one requirement that an identity must meet to be selected.

    Of several, the one whose bucket is emptiest when the selector comes: namespace and cluster, which nearly every
    selector names, fill up and are passed over.
    """

    def __init__(self) -> None:
        self._equal: dict[tuple[str, str], _Bucket] = {}
        self._exists: dict[str, _Bucket] = {}
        self._unbound: _Bucket = {}
        self._places: dict[CachedSelector, Requirement | None] = {}

    def add(self, cached: CachedSelector, selector: LabelSelector) -> None:
        place = min(
            (r for r in selector.requirements if r.is_indexed and r.operator in (Operator.IN, Operator.EXISTS)),
            key=self._load,
            default=None,
        )
        self._places[cached] = place
        if place is None:
            self._unbound[cached] = None
        elif place.operator is Operator.EXISTS:
            self._exists.setdefault(place.key, {})[cached] = None
        else:
            for value in place.values:
                self._equal.setdefault((place.key, value), {})[cached] = None

    def discard(self, cached: CachedSelector) -> None:
        place = self._places.pop(cached)
        if place is None:
            del self._unbound[cached]
        elif place.operator is Operator.EXISTS:
            bucket = self._exists[place.key]
            del bucket[cached]
            if not bucket:
                del self._exists[place.key]
        else:
            for value in place.values:
                bucket = self._equal[place.key, value]
                del bucket[cached]
                if not bucket:
                    del self._equal[place.key, value]

    def candidates(self, labels: LabelSet) -> Iterable[CachedSelector]:
        found = dict(self._unbound)
        for label in labels:
            for bucket in (self._equal.get((label.key, label.value)), self._exists.get(label.key)):
                if bucket:
                    found.update(bucket)
        return found

    def _load(self, one: Requirement) -> tuple[bool, int]:
        if one.operator is Operator.EXISTS:
            return True, len(self._exists.get(one.key, ()))
        return False, max((len(self._equal.get((one.key, value), ())) for value in one.values), default=0)
