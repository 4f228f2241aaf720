"""`cplane bpf`: the datapath's tables, what should be there beside what is."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from cplane.cli.format import plain, table
from cplane.cli.numbers import ANY_ENDPOINT, ENDPOINT
from cplane.cli.session import Session, complain, emit, output_option

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.transport.client import ClientChannel

_LEGEND: Final = "-: wanted and not there, +: there and not wanted; the datapath"


@click.group()
def bpf() -> None:
    """Show the datapath's tables: what should be there beside what is.

    Rows that are on one side only are marked: `-` is wanted and not there, `+` is there and not wanted.
    """


@bpf.group()
def policy() -> None:
    """What endpoints may do."""


@policy.command("get")
@click.argument("endpoint", type=ENDPOINT, metavar="ENDPOINT")
@output_option
@click.pass_obj
def policy_get(session: Session, endpoint: int, output: str) -> None:
    """Show the policy entries of one endpoint."""
    _dump(session, "policy", endpoint, output)


@policy.command("list")
@output_option
@click.pass_obj
def policy_list(session: Session, output: str) -> None:
    """Show the policy entries of all endpoints."""
    _dump(session, "policy", 0, output)


def _list_only(name: str, text: str) -> None:
    @bpf.group(name, help=text)
    def group() -> None:
        """Hold one command."""

    @group.command("list", help=text)
    @click.option("--endpoint", type=ANY_ENDPOINT, default=0, help="Only what concerns this endpoint.")
    @output_option
    @click.pass_obj
    def show(session: Session, endpoint: int, output: str) -> None:
        _dump(session, name, endpoint, output)


_list_only("ipcache", "Show which identity is behind a prefix.")
_list_only("lxc", "Show where packets to a local address go.")
_list_only("devices", "Show who is behind a device.")


@bpf.group()
def lb() -> None:
    """How services are served."""


def _lb(command: str, name: str, text: str) -> None:
    @lb.command(command, help=text)
    @output_option
    @click.pass_obj
    def show(session: Session, output: str) -> None:
        _dump(session, name, 0, output)


_lb("list", "lb_services", "Show frontends: the addresses and ports that stand for backends.")
_lb("slots", "lb_slots", "Show which backends take new connections to a frontend.")
_lb("backends", "lb_backends", "Show backends by their numbers.")
_lb("maglev", "lb_maglev", "Show Maglev tables.")
_lb("affinity", "lb_members", "Show which backends clients may stay with.")
_lb("skips", "lb_skips", "Show who is not redirected: the network namespaces of backends.")
_lb("source-ranges", "lb_ranges", "Show the clients that frontends answer to, or do not.")


def _dump(session: Session, name: str, endpoint: int, output: str) -> None:
    async def ask(channel: "ClientChannel") -> "list[pb.DumpMapResponse]":
        from cplane.pb.cplane.admin import v1 as pb

        request = pb.DumpMapRequest(table=name, endpoint=endpoint)
        return [batch async for batch in pb.MapServiceStub(channel).dump(request)]

    batches = session.call(ask, patience_s=None)
    head = batches[0]
    rows = [row for batch in batches for row in batch.rows]
    shown = {
        "table": name,
        "position": head.position,
        "applied": head.applied,
        "rows": [_row(row, head) for row in rows],
    }
    headers = ("", *head.key_columns, *head.value_columns)
    emit(output, shown, lambda: table(headers, (line for row in rows for line in _lines(row))))
    unequal = sum(1 for row in rows if plain(row.difference) != "none")
    if unequal:
        state = "is in sync" if head.applied >= head.position else f"has {head.applied} of {head.position}"
        complain(f"{unequal} of {len(rows)} rows differ ({_LEGEND} {state})")


def _row(row: "pb.MapRow", head: "pb.DumpMapResponse") -> dict[str, object]:
    """A row for programs: key columns, and both sides by column."""
    key = dict(zip(head.key_columns, row.key, strict=True))
    sides = {
        side: dict(zip(head.value_columns, cells, strict=True)) if cells else None
        for side, cells in (("desired", row.desired), ("actual", row.actual))
    }
    return {"key": key, **sides, "difference": plain(row.difference)}


def _lines(row: "pb.MapRow") -> Iterator[tuple[str, ...]]:
    """One line where the sides are equal, otherwise one for each side that is there."""
    if plain(row.difference) == "none":
        yield (" ", *row.key, *row.actual)
        return
    if row.desired:
        yield ("-", *row.key, *row.desired)
    if row.actual:
        yield ("+", *row.key, *row.actual)
