"""What nobody could ask the kernel is not taken for an answer."""

import errno
from collections.abc import Callable, Iterator

import pytest

from datapath.netlink import netns, rtnl, xdp
from datapath.netlink.errors import KernelRefused, NoNamespace
from datapath.netlink.messages import ifaddrmsg
from datapath.netlink.rtnl import GET_ADDRESS, Rtnl
from datapath.netlink.sockets import Connected, Remote, end_datagrams
from tests.support.exhausted import files_left

OWN = "/proc/self/ns/net"
DONE, DUMP_INTERRUPTED = 3, 0x10


def test_what_is_not_there_is_told_as_such():
    assert rtnl.index_of("lo") == 1
    assert rtnl.name_of(1) == "lo"
    assert rtnl.index_of("no-such-link") == rtnl.index_of("") == rtnl.index_of("l" * 40) == 0
    assert rtnl.name_of(1 << 30) == ""
    with pytest.raises(NoNamespace), netns.opened("/no/such/namespace"):
        pass


@pytest.mark.parametrize(
    "ask",
    [
        lambda: rtnl.index_of("lo"),
        lambda: rtnl.name_of(1),
        Rtnl,
        netns.own_cookie,
        lambda: netns.opened(OWN).__enter__(),
        lambda: xdp.takes_frames(1),
        lambda: end_datagrams("", {Connected(1, Remote(b"\1\2\3\4", 53))}),
    ],
)
def test_a_process_with_too_many_open_files_knows_nothing(ask: Callable[[], object]):
    with files_left(), pytest.raises(KernelRefused) as refused:
        ask()
    assert refused.value.errno == errno.EMFILE


class Changing(Rtnl):
    """A kernel in which something changes while it lists, so many times."""

    def __init__(self, changes: int) -> None:
        super().__init__()
        self.changes, self.asked = changes, 0

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        self.asked += 1
        yield DONE, DUMP_INTERRUPTED if self.asked <= self.changes else 0, self._sequence, bytes(4)


def test_a_list_that_was_made_during_a_change_is_asked_for_again():
    with Changing(2) as kernel:
        assert kernel.dump(GET_ADDRESS, ifaddrmsg()) == []
        assert kernel.asked == 3


def test_a_list_that_changes_each_time_is_no_list():
    with Changing(1000) as kernel, pytest.raises(KernelRefused) as refused:
        kernel.dump(GET_ADDRESS, ifaddrmsg())
    assert refused.value.errno == errno.EINTR
