"""The observer's services, for whoever mounts them on sockets (`cplane.transport.grpc.serve`)."""

from typing import TYPE_CHECKING

from cplane.hubble.observer import Clock, Observer
from cplane.hubble.store import FlowStore

if TYPE_CHECKING:
    from grpclib._typing import IServable


def services(store: FlowStore, clock: Clock, *, version: str) -> "list[IServable]":
    """What answers for the flows of `store`. `version` is told to clients, who compare it with their own."""
    return [Observer(store, clock, version=version)]
