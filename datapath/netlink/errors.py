"""What the kernel answers when it will not, in words."""

import errno as numbers
import os

from datapath.errors import Conflict, NotFound, Rejected, Unavailable


class KernelRefused(Unavailable):
    """The kernel refused a request."""

    code = "netlink.refused"

    def __init__(self, what: str, errno: int) -> None:
        self.what, self.errno = what, errno

    def __str__(self) -> str:
        hint = "; it needs CAP_NET_ADMIN, run as root" if self.errno in {numbers.EPERM, numbers.EACCES} else ""
        return f"{self.what}: {os.strerror(self.errno)}{hint}"


class InterfaceExists(Conflict):
    """The container has an interface of that name."""

    code = "netlink.interface_exists"

    def __init__(self, interface: str, netns: str) -> None:
        self.interface, self.netns = interface, netns

    def __str__(self) -> str:
        return f"{self.netns} has an interface {self.interface!r} already: choose another name or remove it"


class NoNamespace(NotFound):
    """A path does not lead to a network namespace."""

    code = "netlink.no_namespace"

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"network namespace {self.path!r}: {self.reason}"


class OwnNamespace(Rejected):
    """The container's namespace is the node's."""

    code = "netlink.own_namespace"

    def __init__(self, path: str) -> None:
        self.path = path

    def __str__(self) -> str:
        return f"{self.path!r} is the agent's own network namespace: a pod needs one of its own"


class NameTaken(Conflict):
    """A link that is not ours has the name that we need."""

    code = "netlink.name_taken"

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return f"the node has a link {self.name!r} that cplane did not make: remove it or rename it"
