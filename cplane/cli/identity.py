"""`cplane identity` and `cplane ip`."""

from typing import TYPE_CHECKING

import click

from cplane.cli.format import pairs, plain, table
from cplane.cli.session import Session, emit, output_option

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.transport.client import ClientChannel


@click.group()
def identity() -> None:
    """Show identities, the numbers that stand for label sets."""


@identity.command("list")
@output_option
@click.pass_obj
def list_identities(session: Session, output: str) -> None:
    """Show all identities."""

    async def ask(channel: "ClientChannel") -> "pb.ListIdentitiesResponse":
        from cplane.pb.cplane.admin import v1 as pb

        return await pb.IdentityServiceStub(channel).list(pb.ListIdentitiesRequest())

    answer = session.call(ask)
    rows = [(one.number, plain(one.scope), _numbers(one.endpoints), " ".join(one.labels)) for one in answer.identities]
    emit(output, answer, lambda: table(("identity", "scope", "endpoints", "labels"), rows))


@identity.command()
@click.argument("what", nargs=-1, required=True, metavar="NUMBER|LABEL...")
@output_option
@click.pass_obj
def get(session: Session, what: tuple[str, ...], output: str) -> None:
    """Show one identity, by number or by its complete set of labels."""

    async def ask(channel: "ClientChannel") -> "pb.GetIdentityResponse":
        from cplane.pb.cplane.admin import v1 as pb

        by_number = len(what) == 1 and what[0].isdecimal() and int(what[0]) < 1 << 32
        request = pb.GetIdentityRequest(number=int(what[0])) if by_number else pb.GetIdentityRequest(labels=list(what))
        return await pb.IdentityServiceStub(channel).get(request)

    one = session.call(ask).identity
    assert one is not None
    rows = [
        ("identity", one.number),
        ("scope", plain(one.scope)),
        ("labels", " ".join(one.labels)),
        ("endpoints", _numbers(one.endpoints)),
    ]
    emit(output, one, lambda: pairs(rows))


@click.group()
def ip() -> None:
    """Show which identity is behind an address."""


@ip.command("list")
@output_option
@click.pass_obj
def list_ips(session: Session, output: str) -> None:
    """Show all prefixes, their identities, and why they are known."""

    async def ask(channel: "ClientChannel") -> "pb.ListIpsResponse":
        from cplane.pb.cplane.admin import v1 as pb

        return await pb.IpServiceStub(channel).list(pb.ListIpsRequest())

    answer = session.call(ask)
    rows = [(one.prefix, one.identity, one.source, one.endpoint or "-", " ".join(one.labels)) for one in answer.entries]
    emit(output, answer, lambda: table(("prefix", "identity", "source", "endpoint", "labels"), rows))


def _numbers(numbers: list[int]) -> str:
    return ",".join(map(str, numbers)) or "-"
