"""Whose word a verdict was: the policies that a flow names."""

from dataclasses import dataclass
from typing import Final

POLICIES_MAX: Final = 32  # that one flow names, the first by name: a thousand would fill a message


@dataclass(frozen=True, slots=True)
class PolicyMeta:
    """A policy as flows name it. `labels` are those of its rule, texts in Hubble's form, sorted."""

    kind: str
    namespace: str
    name: str
    labels: tuple[str, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Attribution:
    """The policies that decided, and what their rules want logged with it. A flow's verdict says what they decided."""

    policies: tuple[PolicyMeta, ...] = ()
    log: tuple[str, ...] = ()


NO_POLICY: Final = Attribution()
