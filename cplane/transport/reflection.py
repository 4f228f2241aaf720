"""What every server tells about itself: health, and reflection over both protobuf libraries' descriptors."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from grpclib.health.service import OVERALL, Health
from grpclib.reflection.service import ServerReflection

from cplane.pb.google_proto_descriptor_pool import default_google_proto_descriptor_pool

if TYPE_CHECKING:
    from grpclib._typing import ICheckable, IServable
    from grpclib.health.check import CheckBase

_POOLS: Final = (default_google_proto_descriptor_pool, descriptor_pool.Default())


class DescriptorPools:
    """Several descriptor pools asked in turn, with the methods that grpclib's reflection calls.

    Raise KeyError.
    """

    def FindFileByName(self, name: str) -> FileDescriptor:  # noqa: N802  # protobuf's name
        """The file of that name."""
        for pool in _POOLS:
            try:
                return pool.FindFileByName(name)
            except KeyError:
                continue
        raise KeyError(name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802  # protobuf's name
        """The file that defines a message, an enumeration, a service or a method."""
        for pool in _POOLS:
            try:
                return pool.FindFileContainingSymbol(symbol)
            except KeyError:
                continue
        raise KeyError(symbol)

    def FindMessageTypeByName(self, name: str) -> Descriptor:  # noqa: N802  # protobuf's name
        """The message of that full name."""
        for pool in _POOLS:
            try:
                return pool.FindMessageTypeByName(name)
            except KeyError:
                continue
        raise KeyError(name)

    def FindExtensionByNumber(self, message: Descriptor, number: int) -> FieldDescriptor:  # noqa: N802
        """There are none: proto3 has extensions only for options."""
        raise KeyError(message.full_name, number)

    def FindAllExtensions(self, message: Descriptor) -> list[FieldDescriptor]:  # noqa: N802
        """Always empty, see above."""
        return []


def with_health_and_reflection(
    services: "Sequence[IServable]", ready: "Collection[CheckBase]" = ()
) -> "list[IServable]":
    """The services, and grpc.health.v1 and grpc.reflection.v1 and v1alpha beside them.

    A service is SERVING while all checks of `ready` pass; without any as long as the process answers: readiness is
    then a question to the status service.
    """
    checks: dict[ICheckable, Collection[CheckBase]] = {OVERALL: ready}
    checks.update(dict.fromkeys(services, ready))
    return ServerReflection.extend([*services, Health(checks)], pool=DescriptorPools())
