"""From whose move it is to what a runtime understands: one table."""

from typing import Final

from cplane import errors as ours
from cplane.api.cni import wire
from cplane.api.cni.wire import CniError
from datapath import errors as theirs

_BY_CODE: Final = {
    "ipam.pool_exhausted": wire.TRY_AGAIN_LATER,  # a deletion may free one
    "endpoint.exhausted": wire.TRY_AGAIN_LATER,
    "endpoint.node_not_ready": wire.TRY_AGAIN_LATER,
    "ipam.address_not_free": wire.INVALID_CONFIG,
    "labels.bad": wire.INVALID_CONFIG,
    "netlink.bad_alias": wire.INVALID_CONFIG,
    "netlink.interface_exists": wire.INVALID_ENVIRONMENT,
    "netlink.no_namespace": wire.INVALID_ENVIRONMENT,
    "netlink.own_namespace": wire.INVALID_ENVIRONMENT,
}
_VARIABLE: Final = {  # the specification wants the wrong variable named
    "netlink.interface_exists": "CNI_IFNAME: ",
    "netlink.no_namespace": "CNI_NETNS: ",
    "netlink.own_namespace": "CNI_NETNS: ",
}


def cni_error(error: ours.CplaneError | theirs.DatapathError) -> CniError:
    """The error as the specification has it; what it has no number for is 11 (retry) or 100 (do not)."""
    code = _BY_CODE.get(error.code)
    if code is None:
        retriable = isinstance(error, ours.Unavailable | ours.Conflict | theirs.Unavailable | theirs.Conflict)
        code = wire.TRY_AGAIN_LATER if retriable else wire.REFUSED
    return CniError(code, _VARIABLE.get(error.code, "") + str(error), error.code)
