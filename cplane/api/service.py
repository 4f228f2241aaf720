"""Services over gRPC: described in JSON, as there may be many; shown as the log has them."""

from collections.abc import AsyncIterator
from typing import Final

import anyio.to_thread
import msgspec

from cplane.api.ports import Engine
from cplane.api.streaming import StreamingService
from cplane.config.documents import BadDocuments
from cplane.config.problems import Problem
from cplane.deciders.service import ApplyServices, DeleteServices, InvalidServices, NoSuchService, SetBackendState
from cplane.domain.service import PROTOCOLS, Backends, BackendState, Service, ServiceName, canonical_address
from cplane.errors import Rejected
from cplane.events.service import BackendsChanged, ServiceDeleted, ServiceUpserted
from cplane.pb.cplane.admin import v1 as pb
from cplane.transport.calls import caller

_BATCH: Final = 50  # services of one message; a millisecond of encoding, during which nobody else is served
_INLINE_BYTES: Final = 65_536  # more is decoded in a thread


class Described(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an apply says."""

    services: tuple[Service, ...] = ()
    backends: tuple[Backends, ...] = ()


class BadDescription(Rejected):
    """A description of services cannot be read."""

    code = "service.bad_description"


_DECODER: Final = msgspec.json.Decoder(Described)
_ENCODER: Final = msgspec.json.Encoder()


class ServiceService(StreamingService, pb.ServiceServiceBase):
    """Applies, deletes and shows services."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def apply(self, message: pb.ApplyServicesRequest) -> pb.ApplyServicesResponse:
        """All of it is so at the position, or BadDocuments and nothing is."""
        data = message.described
        described = _read(data) if len(data) <= _INLINE_BYTES else await anyio.to_thread.run_sync(_read, data)
        command = ApplyServices(services=described.services, backends=described.backends)
        try:
            committed = await self._engine.submit(command, actor=caller())
        except InvalidServices as invalid:
            problems = tuple(Problem(0, f"service {whose}, {where}", what) for whose, where, what in invalid.errors)
            raise BadDocuments(problems, invalid.code) from None
        state = self._engine.world.service
        changed: dict[ServiceName, None] = {}
        for event in committed.events:
            if isinstance(event, ServiceUpserted):
                changed[ServiceName(event.namespace, event.name)] = None
            elif isinstance(event, BackendsChanged):
                changed[ServiceName(event.namespace, event.service)] = None
        applied = [
            pb.AppliedService(
                ref=pb.ServiceRef(namespace=name.namespace, name=name.name),
                frontends=len(held.frontends) if (held := state.services.get(name)) is not None else 0,
            )
            for name in changed
        ]
        return pb.ApplyServicesResponse(position=committed.position, changed=applied, applied=self._applied())

    async def delete(self, message: pb.DeleteServicesRequest) -> pb.DeleteServicesResponse:
        """None of the services exists at the position, or NoSuchService and nothing has changed."""
        names = tuple(ServiceName(ref.namespace, ref.name) for ref in message.refs)
        if not names:
            raise BadDocuments((Problem(0, "", "say which services"),), "service.none_named")
        committed = await self._engine.submit(DeleteServices(names=names), actor=caller())
        deleted = [one for one in committed.events if isinstance(one, ServiceDeleted)]
        refs = [pb.ServiceRef(namespace=one.namespace, name=one.name) for one in deleted]
        return pb.DeleteServicesResponse(position=committed.position, deleted=refs, applied=self._applied())

    async def list(self, message: pb.ListServicesRequest) -> AsyncIterator[pb.ListServicesResponse]:
        """All services, or those of one namespace, or one. Raises NoSuchService."""
        world = self._engine.world
        state = world.service
        if message.name:
            wanted = ServiceName(message.namespace, message.name)
            if wanted not in state.services:
                others = tuple(sorted(name for name in state.services if name.name == wanted.name))
                raise NoSuchService((wanted,), others)
            names = [wanted]
        else:
            names = sorted(name for name in state.services if message.namespace in {"", name.namespace})
        for start in range(0, max(1, len(names)), _BATCH):
            shown = [state.shown(name) for name in names[start : start + _BATCH]]
            yield pb.ListServicesResponse(position=world.position, services=_ENCODER.encode(shown))

    async def set_backend_state(self, message: pb.SetBackendStateRequest) -> pb.SetBackendStateResponse:
        """The backend is in the state at the position. Raises NoSuchBackend and WrongState."""
        known = {one.name: one for one in PROTOCOLS}
        protocol = known.get(message.protocol.upper() or "TCP")
        try:
            address, state = canonical_address(message.address), BackendState(message.state)
        except ValueError as error:
            raise BadDescription(str(error)) from None
        if protocol is None:
            raise BadDescription(f"the protocol {message.protocol!r} is none of {', '.join(known)}")
        command = SetBackendState(address=address, port=message.port, protocol=protocol, state=state)
        committed = await self._engine.submit(command, actor=caller())
        return pb.SetBackendStateResponse(position=committed.position, applied=self._applied())

    def _applied(self) -> int:
        """What the datapath has without doubt: most changes are small, and are written before they are answered."""
        return self._engine.applied if self._engine.in_sync else 0


def _read(data: bytes) -> Described:
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise BadDescription(f"the description of services cannot be read: {error}") from None
