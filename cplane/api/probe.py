"""What-if questions about single packets, over gRPC."""

from ipaddress import ip_address

from cplane.api.errors import NotHere
from cplane.api.ports import Agent, Packet
from cplane.errors import Rejected
from cplane.pb.cplane.admin import v1 as pb


class BadPacket(Rejected):
    """There can be no such packet."""

    code = "probe.bad_packet"


class ProbeService(pb.ProbeServiceBase):
    """Asks the memory datapath."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def probe(self, message: pb.ProbeRequest) -> pb.ProbeResponse:
        """What would become of the packet. Raises NotHere and BadPacket."""
        if self._agent.probe is None:
            raise NotHere("probe works on the memory datapath; on this one send a packet and read `hubble observe`")
        answer = self._agent.probe(_packet(message))
        return pb.ProbeResponse(
            forwarded=answer.forwarded,
            reason=answer.reason,
            reason_name=answer.reason_name,
            detail=answer.detail,
        )


def _packet(message: pb.ProbeRequest) -> Packet:
    addresses = []
    for key, text in (("source", message.source), ("destination", message.destination)):
        try:
            addresses.append(ip_address(text))
        except ValueError:
            raise BadPacket(f"{key}: {text!r} is not an IP address") from None
    if addresses[0].version != addresses[1].version:
        raise BadPacket(f"source and destination are of two families: {message.source} and {message.destination}")
    if message.protocol > 255:
        raise BadPacket(f"protocol: {message.protocol} is not 0..255")
    for key, port in (("source_port", message.source_port), ("destination_port", message.destination_port)):
        if port > 65_535:
            raise BadPacket(f"{key}: {port} is not 0..65535")
    return Packet(str(addresses[0]), str(addresses[1]), message.protocol, message.source_port, message.destination_port)
