"""`cplane probe`: what would become of a packet (memory datapath)."""

from typing import TYPE_CHECKING, Final

import click

from cplane.cli.session import Session, emit, output_option

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.transport.client import ClientChannel

_PROTOCOLS: Final = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmpv6": 58}


@click.command()
@click.argument("source")
@click.argument("destination")
@click.option("--protocol", default="tcp", show_default=True, help="tcp, udp, sctp, icmp, icmpv6, or a number.")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="Destination port, or the type of ICMP.")
@click.option("--source-port", type=click.IntRange(0, 65_535), default=40_000, show_default=True)
@output_option
@click.pass_obj
def probe(
    session: Session, source: str, destination: str, protocol: str, port: int, source_port: int, output: str
) -> None:
    """Ask what would become of a packet from SOURCE to DESTINATION (addresses).

    Works where the agent runs with --datapath memory. Exit code 0 whatever the verdict.
    """
    number = _PROTOCOLS.get(protocol.lower(), int(protocol) if protocol.isdecimal() else -1)
    if not 0 <= number <= 255:
        raise click.UsageError(f"--protocol: {protocol!r} is none of {', '.join(_PROTOCOLS)}, nor 0..255")

    async def ask(channel: "ClientChannel") -> "pb.ProbeResponse":
        from cplane.pb.cplane.admin import v1 as pb

        request = pb.ProbeRequest(
            source=source,
            destination=destination,
            protocol=number,
            source_port=source_port,
            destination_port=port,
        )
        return await pb.ProbeServiceStub(channel).probe(request)

    answer = session.call(ask)
    verdict = "FORWARDED" if answer.forwarded else f"DROPPED ({answer.reason_name}, {answer.reason})"
    emit(output, answer, lambda: f"{verdict}{f': {answer.detail}' if answer.detail else ''}")
