"""The policy language: documents, rules, what they mean for each identity, and the lookup that the kernel does.

May import the rest of `cplane.domain`; must not import anything else but the standard library and `cplane.errors`.
"""

from cplane.domain.policy.document import FieldError, InvalidPolicy
from cplane.domain.policy.parse import parse, parse_text
from cplane.domain.policy.rule import (
    CCNP,
    CNP,
    DefaultDeny,
    IcmpMatch,
    Policy,
    PolicyRef,
    PortMatch,
    Rule,
    Term,
)

__all__ = [
    "CCNP",
    "CNP",
    "DefaultDeny",
    "FieldError",
    "IcmpMatch",
    "InvalidPolicy",
    "Policy",
    "PolicyRef",
    "PortMatch",
    "Rule",
    "Term",
    "parse",
    "parse_text",
]
