"""Hypothesis strategies for selectors, prefixes and policy documents, from a small world so that they meet.

What is drawn is the random numbers, so that a failure shrinks.
"""

from random import Random
from typing import Any

from hypothesis import strategies as st

from tests.support import random_policies
from tests.support.policies import Setting
from tests.support.random_policies import GROUPS, KEYS, NAMES, SERVICES

CHANCE = st.randoms(use_true_random=False)


def selectors(keys: tuple[str, ...] = KEYS) -> st.SearchStrategy[dict[str, Any]]:
    """A LabelSelector as it is written; often one of a few."""
    return CHANCE.map(lambda chance: random_policies.label_selector(chance, keys))


def cidr_rules() -> st.SearchStrategy[dict[str, Any]]:
    """An element of `fromCIDRSet`, without groups."""
    return CHANCE.map(random_policies.cidr_rule).filter(lambda one: "cidr" in one)


def terms(section: str = "ingress") -> st.SearchStrategy[dict[str, Any]]:
    """An element of a section of a rule."""
    return CHANCE.map(lambda chance: random_policies.term(chance, section))


def documents(names: tuple[str, ...] = NAMES) -> st.SearchStrategy[dict[str, Any]]:
    """A valid policy of any kind."""
    return CHANCE.map(lambda chance: random_policies.document(chance, names))


def settings() -> st.SearchStrategy[Setting]:
    """A mode, groups and services."""
    return CHANCE.map(setting)


def setting(chance: Random) -> Setting:
    """A mode, groups and services."""
    return Setting(
        mode=chance.choice(("default", "default", "default", "always", "never")),
        groups=tuple(random_policies.cidr_group(chance, called) for called in GROUPS if chance.randrange(4)),
        services=tuple(random_policies.services(chance, called) for called in SERVICES if chance.randrange(4)),
    )
