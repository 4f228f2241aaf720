"""The policy language: documents, rules, what they mean for each identity, and the lookup that the kernel does.

May import the rest of `cplane.domain`; must not import anything else but the standard library, `cplane.errors`
and, in `regex` alone, RE2.
"""

from cplane.domain.policy.document import FieldError, InvalidPolicy
from cplane.domain.policy.parse import parse, parse_text
from cplane.domain.policy.rule import (
    CCNP,
    CIDR_GROUP,
    CNP,
    KNP,
    CidrGroup,
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
    "CIDR_GROUP",
    "CNP",
    "KNP",
    "CidrGroup",
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
