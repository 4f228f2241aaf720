"""CiliumCIDRGroup: prefixes under a name."""

from typing import Final

from cplane.domain.cidr import Prefix, parse_prefix_or_address
from cplane.domain.labels import LabelSet
from cplane.domain.policy.document import Fields, Place, shown
from cplane.domain.policy.rule import CidrGroup, PolicyRef

_SPEC_FIELDS: Final = Fields(frozenset({"externalCIDRs"}))


def read_group(root: Place, fields: dict[str, Place], ref: PolicyRef, labels: LabelSet) -> CidrGroup:
    """The group that the document is."""
    if "spec" not in fields:
        root.refuse("spec is missing: list the prefixes under spec.externalCIDRs")
        return CidrGroup(ref, labels, ())
    if "specs" in fields:
        fields["specs"].refuse("a group has one spec")
    spec = fields["spec"].fields(_SPEC_FIELDS) or {}
    found: list[Prefix] = []
    for one in spec["externalCIDRs"].items() if "externalCIDRs" in spec else ():
        text = one.text()
        if text is None:
            continue
        try:
            found.append(parse_prefix_or_address(text))
        except ValueError as error:
            one.refuse(f"{shown(text)} is not a prefix: {error}; write 10.0.0.0/8 or 2001:db8::/32")
    return CidrGroup(ref, labels, tuple(dict.fromkeys(found)))
