"""`cplane fqdn`: names that endpoints were told addresses of."""

from typing import TYPE_CHECKING, Final

import click

from cplane.cli.format import instant, table
from cplane.cli.numbers import ANY_ENDPOINT
from cplane.cli.session import MARGIN_S, Session, emit, output_option, wait_for, wait_options

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.transport.client import ClientChannel

_SHOWN_MAX: Final = 4  # addresses of a row

_endpoint = click.option("--endpoint", "-e", type=ANY_ENDPOINT, default=0, help="Of this endpoint alone.")
_pattern = click.option("--matchpattern", "-p", "pattern", default="", help="Names that this pattern selects.")


@click.group()
def fqdn() -> None:
    """Show names that endpoints were told addresses of, and the selectors of policies."""


@fqdn.group()
def cache() -> None:
    """Show or forget what endpoints were told."""


@cache.command("list")
@_endpoint
@_pattern
@output_option
@click.pass_obj
def list_names(session: Session, endpoint: int, pattern: str, output: str) -> None:
    """Show what endpoints were told by DNS servers, as long as it counts.

    The source is "lookup" while an answer says so, and "connection" when only open connections keep it.
    """

    async def ask(channel: "ClientChannel") -> "pb.ListNamesResponse":
        from cplane.pb.cplane.admin import v1 as pb

        return await pb.FqdnServiceStub(channel).list(pb.ListNamesRequest(endpoint=endpoint, pattern=pattern))

    answer = session.call(ask)
    rows = [
        (
            one.endpoint,
            one.source,
            one.name,
            one.ttl_s,
            instant(one.expires_at_ns) if one.expires_at_ns else "-",
            "yes" if one.selected else "no",
            _some(one.ips),
        )
        for one in answer.names
    ]
    headers = ("endpoint", "source", "fqdn", "ttl", "expirationtime", "selected", "ips")
    emit(output, answer, lambda: table(headers, rows))


@cache.command()
@_endpoint
@_pattern
@wait_options
@output_option
@click.pass_obj
def clean(session: Session, *, endpoint: int, pattern: str, wait: bool, timeout_s: float, output: str) -> None:
    """Forget what endpoints were told: nothing is allowed by it until they ask again."""

    async def ask(channel: "ClientChannel") -> "pb.ForgetNamesResponse":
        from cplane.pb.cplane.admin import v1 as pb

        stub = pb.FqdnServiceStub(channel)
        answer = await stub.forget(pb.ForgetNamesRequest(endpoint=endpoint, pattern=pattern))
        if wait:
            await wait_for(channel, answer.position, timeout_s)
        return answer

    answer = session.call(ask, patience_s=timeout_s + MARGIN_S)
    emit(output, answer, lambda: f"{answer.addresses} addresses forgotten\nposition {answer.position}")


@fqdn.command()
@output_option
@click.pass_obj
def names(session: Session, output: str) -> None:
    """Show the selectors of policies (toFQDNs), and the names and addresses that they select."""

    async def ask(channel: "ClientChannel") -> "pb.ListSelectorsResponse":
        from cplane.pb.cplane.admin import v1 as pb

        return await pb.FqdnServiceStub(channel).selectors(pb.ListSelectorsRequest())

    answer = session.call(ask)
    rows = [
        (
            one.selector,
            one.policies,
            _some(one.names),
            _some([str(number) for number in one.identities]),
            _some(one.ips),
        )
        for one in answer.selectors
    ]
    emit(output, answer, lambda: table(("selector", "policies", "names", "identities", "ips"), rows))


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - _SHOWN_MAX} more" if len(texts) > _SHOWN_MAX else ""
    return " ".join(texts[:_SHOWN_MAX]) + more if texts else "-"
