"""Every family of errors has a number that a runtime understands."""

import pytest

from cplane import errors as ours
from cplane.api.cni import wire
from cplane.api.cni.errors import cni_error
from cplane.deciders.ipam import AddressNotFree, PoolExhausted
from cplane.domain.labels import BadLabel
from datapath import errors as theirs
from datapath.netlink.attachment import BadAlias
from datapath.netlink.errors import InterfaceExists, KernelRefused, NameTaken, NoNamespace, OwnNamespace


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ours.Rejected("x"), wire.REFUSED),
        (ours.Conflict("x"), wire.TRY_AGAIN_LATER),
        (ours.NotFound("x"), wire.REFUSED),
        (ours.Unavailable("x"), wire.TRY_AGAIN_LATER),
        (ours.Corrupt("x"), wire.REFUSED),
        (theirs.Rejected("x"), wire.REFUSED),
        (theirs.Unavailable("x"), wire.TRY_AGAIN_LATER),
        (PoolExhausted("ipv4", "10.0.0.0/24", 253), wire.TRY_AGAIN_LATER),
        (AddressNotFree("10.0.0.1", "it is reserved"), wire.INVALID_CONFIG),
        (BadLabel("x", "y"), wire.INVALID_CONFIG),
        (BadAlias("x", "y"), wire.INVALID_CONFIG),
        (InterfaceExists("eth0", "/run/netns/x"), wire.INVALID_ENVIRONMENT),
        (NoNamespace("/x", "gone"), wire.INVALID_ENVIRONMENT),
        (OwnNamespace("/x"), wire.INVALID_ENVIRONMENT),
        (KernelRefused("do it", 12), wire.TRY_AGAIN_LATER),
        (NameTaken("lxc0"), wire.TRY_AGAIN_LATER),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_family_has_its_number_and_its_text_arrives(error, code):
    found = cni_error(error)
    assert found.code == code
    assert str(error) in found.msg
    assert found.details == error.code


def test_the_wrong_variable_is_named():
    assert cni_error(NoNamespace("/x", "gone")).msg.startswith("CNI_NETNS: ")
    assert cni_error(InterfaceExists("eth0", "/x")).msg.startswith("CNI_IFNAME: ")
