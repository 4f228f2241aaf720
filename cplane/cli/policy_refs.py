"""How policies are named on the command line and in answers."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

import click

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb

Callback = TypeVar("Callback", bound=Callable[..., object])

_FULL: Final = (
    "CiliumNetworkPolicy",
    "CiliumClusterwideNetworkPolicy",
    "NetworkPolicy",
    "CiliumCIDRGroup",
)
_KINDS: Final = {
    "cnp": "CiliumNetworkPolicy",
    "ciliumnp": "CiliumNetworkPolicy",
    "ccnp": "CiliumClusterwideNetworkPolicy",
    "knp": "NetworkPolicy",
    "netpol": "NetworkPolicy",
    "ccg": "CiliumCIDRGroup",
    **{kind.lower(): kind for kind in _FULL},
    **{f"{kind.lower().removesuffix('y')}ies": kind for kind in _FULL if kind.endswith("y")},
    "ciliumcidrgroups": "CiliumCIDRGroup",
}
_CLUSTER_WIDE: Final = frozenset({"CiliumClusterwideNetworkPolicy", "CiliumCIDRGroup"})


def name_options(callback: Callback) -> Callback:
    """The command takes `--namespace` and `--kind` of a policy that it names."""
    kind = click.option(
        "--kind",
        default="cnp",
        show_default=True,
        help="cnp, ccnp, knp or netpol, ccg (a group of prefixes), or the kind as it stands in the object.",
    )
    namespace = click.option("-n", "--namespace", default="default", show_default=True, help="Of the policy.")
    return namespace(kind(callback))


def ref_of(kind: str, namespace: str, name: str) -> "pb.PolicyRef":
    """The policy that the words mean; one that does not exist is the agent's to refuse."""
    from cplane.pb.cplane.admin import v1 as pb

    full = _KINDS.get(kind.lower(), kind)
    if "/" in name:  # as `policy list` and all messages write it
        namespace, _, name = name.partition("/")
    return pb.PolicyRef(kind=full, namespace="" if full in _CLUSTER_WIDE else namespace, name=name)


def name_of(ref: "pb.PolicyRef | None") -> str:
    """As every message writes it."""
    if ref is None:
        return "-"
    return f"{ref.kind} {ref.namespace}/{ref.name}" if ref.namespace else f"{ref.kind} {ref.name}"
