"""What the CNI service needs from others, by shape: an engine that decides, plumbing that makes links."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from cplane.api.ports import Committed
from cplane.deciders.world import Command, World
from datapath.netlink.attachment import Attachment, Link, OwnedLink, Wiring


class Engine(Protocol):
    """Takes commands; as `cplane.engine.engine.Engine`."""

    @property
    def world(self) -> World:
        """Everything that is true now."""
        ...

    @property
    def in_sync(self) -> bool:
        """Whether the datapath has had every table since its last failure."""
        ...

    @property
    def failure(self) -> str:
        """Why the datapath could not be written; empty when it could."""
        ...

    async def submit(self, command: Command, *, actor: str, cause: str = "") -> Committed:
        """The command's events are durable. Raises CplaneError when nothing happened."""
        ...

    async def wait(self, position: int) -> None:
        """Returns when the datapath has everything up to `position`."""
        ...


class Plumbing(Protocol):
    """Pods' links. Every method blocks and is called from worker threads; all raise DatapathError."""

    def create(self, attachment: Attachment, path: str, mtu: int) -> Link:
        """A pair, both sides down, the container's in the namespace at `path`, in place of an older one."""
        ...

    def configure(self, wiring: Wiring) -> tuple[str, ...]:
        """Both sides carry packets; the destinations that the pod routes through the link."""
        ...

    def problems(self, wiring: Wiring, routed: Sequence[str]) -> tuple[str, ...]:
        """What is missing, in words. `routed`: destinations that the pod must route through the link."""
        ...

    def restore(self, wirings: Iterable[Wiring]) -> None:
        """The node's side of each is as it should be, where the link is there."""
        ...

    def delete(self, host_interface: str) -> bool:
        """The pair is gone; False: there was none."""
        ...

    def owned(self) -> Mapping[str, OwnedLink]:
        """What this instance made and is still there, by the name of the node's side."""
        ...

    def netns_exists(self, path: str) -> bool:
        """Whether the path leads to a container's network namespace now."""
        ...
