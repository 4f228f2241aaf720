"""Endpoints over gRPC."""

from cplane.api.ports import Engine
from cplane.deciders.endpoint import ConfigureEndpoint, NoSuchEndpoint, RelabelEndpoint
from cplane.domain.endpoint import Endpoint
from cplane.domain.labels import K8S, LabelSet
from cplane.pb.cplane.admin import v1 as pb
from cplane.transport.calls import caller


class EndpointService(pb.EndpointServiceBase):
    """Shows, relabels and configures endpoints; they come and go by the container runtime."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def list(self, message: pb.ListEndpointsRequest) -> pb.ListEndpointsResponse:
        """All endpoints, by number."""
        world = self._engine.world
        endpoints = [_to_pb(one) for _, one in sorted(world.endpoints.items())]
        return pb.ListEndpointsResponse(position=world.position, endpoints=endpoints)

    async def get(self, message: pb.GetEndpointRequest) -> pb.GetEndpointResponse:
        """One endpoint. Raises NoSuchEndpoint."""
        return pb.GetEndpointResponse(
            position=self._engine.world.position, endpoint=_to_pb(find(self._engine, message.id))
        )

    async def relabel(self, message: pb.RelabelEndpointRequest) -> pb.RelabelEndpointResponse:
        """The endpoint has exactly these labels; those without a source are of source `k8s`.

        Raises NoSuchEndpoint and BadLabel.
        """
        labels = LabelSet.parse(message.labels, K8S).texts()
        committed = await self._engine.submit(RelabelEndpoint(endpoint=message.id, labels=labels), actor=caller())
        return pb.RelabelEndpointResponse(position=committed.position, endpoint=_to_pb(find(self._engine, message.id)))

    async def configure(self, message: pb.ConfigureEndpointRequest) -> pb.ConfigureEndpointResponse:
        """The endpoint's options are these at the position; without any, what they are. Raises NoSuchEndpoint."""
        find(self._engine, message.id)
        position = self._engine.world.position
        if message.policy_audit is not None:
            command = ConfigureEndpoint(endpoint=message.id, audit=message.policy_audit)
            position = (await self._engine.submit(command, actor=caller())).position
        return pb.ConfigureEndpointResponse(
            position=position,
            endpoint=_to_pb(find(self._engine, message.id)),
            agent_policy_audit=self._engine.world.options.policy_audit,
        )


def find(engine: Engine, number: int) -> Endpoint:
    """The endpoint of that number. Raises NoSuchEndpoint."""
    endpoint = engine.world.endpoints.get(number)
    if endpoint is None:
        raise NoSuchEndpoint(number)
    return endpoint


def _to_pb(one: Endpoint) -> pb.Endpoint:
    return pb.Endpoint(
        id=one.id,
        container_id=one.container_id,
        container_interface=one.container_interface,
        netns=one.netns,
        host_interface=one.host_interface,
        host_ifindex=one.host_ifindex,
        mac=one.mac,
        host_mac=one.host_mac,
        ipv4=one.ipv4,
        ipv6=one.ipv6,
        namespace=one.namespace,
        pod=one.pod,
        pod_uid=one.pod_uid,
        labels=[*one.labels.texts()],
        identity=one.identity,
        policy=one.policy_id,
        named_ports=[*one.named_ports],
        policy_audit=one.audit,
    )
