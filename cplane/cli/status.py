"""`cplane status`, `doctor`, `wait`, `version`."""

from typing import TYPE_CHECKING

import click

from cplane import __version__
from cplane.cli.format import counted, duration, pairs, plain, table
from cplane.cli.numbers import POSITION
from cplane.cli.session import MARGIN_S, REFUSED, Session, complain, emit, output_option, timeout_option, wait_for

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.transport.client import ClientChannel


@click.command()
@output_option
@click.pass_obj
def status(session: Session, output: str) -> None:
    """Show how the agent is and how far the datapath has come."""

    async def ask(channel: "ClientChannel") -> "pb.GetStatusResponse":
        from cplane.pb.cplane.admin import v1 as pb

        return await pb.StatusServiceStub(channel).get(pb.GetStatusRequest())

    answer = session.call(ask)
    emit(output, answer, lambda: pairs(_status_rows(answer)))


def _status_rows(one: "pb.GetStatusResponse") -> list[tuple[str, object]]:
    sync = "in sync" if one.in_sync else f"not in sync{f' ({one.failure})' if one.failure else ''}"
    monitor = one.monitor
    records = f"{monitor.seen} records, {monitor.lost} lost" if monitor and monitor.enabled else "off"
    return [
        ("version", one.version),
        ("node", f"{one.node} (cluster {one.cluster})"),
        ("uptime", duration(one.uptime_ns)),
        ("datapath", f"{one.datapath}, {sync}"),
        ("position", f"{one.applied} of {one.head} in the datapath"),
        ("pods", " ".join(cidr for cidr in (one.ipv4_pod_cidr, one.ipv6_pod_cidr) if cidr) or "-"),
        ("endpoints", one.endpoints),
        ("identities", one.identities),
        ("policies", f"{one.policies} (revision {one.policy_revision})"),
        ("clients outside", "; ".join(map(_served, one.served_devices)) or "not served"),
        ("proxies", ", ".join(map(_proxy, one.proxies)) or "-"),
        ("tables", ", ".join(f"{count.table} {count.entries}" for count in one.tables) or "-"),
        ("monitor", records),
        ("log", one.log),
        ("digest", one.digest or "-"),
    ]


def _proxy(one: "pb.ProxyStatus") -> str:
    """`envoy runs (pid 7, 2 redirects, 5 connections)`; `dns absent`."""
    told = [f"pid {one.pid}"] if one.pid else []
    if one.pid or one.redirects:
        told.append(counted(one.redirects, "redirect") + (f", {one.failing} not in force" if one.failing else ""))
    if one.connections is not None:
        told.append(counted(one.connections, "connection"))
    how = "absent" if not one.pid else "runs" if one.connected else "runs without the agent"
    return f"{one.kind} {how}" + (f" ({', '.join(told)})" if told else "")


def _served(one: "pb.ServedDevice") -> str:
    if one.xdp:
        return f"by {one.name} (XDP, which sends nothing: {one.detail})" if one.detail else f"by {one.name} (XDP)"
    return f"by {one.name} (no XDP: {one.detail})" if one.present else f"not by {one.name}: {one.detail}"


@click.command()
@click.option("--local", is_flag=True, help="Look at this machine without asking an agent.")
@output_option
@click.pass_obj
def doctor(session: Session, *, local: bool, output: str) -> None:
    """Show which features this machine has, which it lacks, and how to get them.

    Asks the agent; where none answers, looks at the machine itself. Exit code 1 when something is lacking.
    """
    answer = None if local else _ask_doctor(session)
    if answer is None:
        from cplane.proxy.checks import envoy
        from datapath.kernel.probes import probe

        shown = [one._asdict() for one in (*probe(), envoy())]
    else:
        checks = plain(answer.checks)
        assert isinstance(checks, list)
        shown = checks
    headers = ("", "feature", "needed for", "found", "how to get it")
    rows = [
        (
            "ok" if one["ok"] else "LACKING",
            one["name"],
            one["needed_for"],
            one["detail"],
            one["remedy"] or "-",
        )
        for one in shown
    ]
    emit(output, {"checks": shown}, lambda: table(headers, rows))
    if not all(one["ok"] for one in shown):
        raise SystemExit(REFUSED)


def _ask_doctor(session: Session) -> "pb.DoctorResponse | None":
    """The agent's checks; None: no agent answers at the default address."""
    from cplane.cli.session import UNREACHABLE

    async def ask(channel: "ClientChannel") -> "pb.DoctorResponse":
        from cplane.pb.cplane.admin import v1 as pb

        return await pb.StatusServiceStub(channel).doctor(pb.DoctorRequest())

    try:
        return session.call(ask)
    except SystemExit as end:
        if session.chosen or end.code != UNREACHABLE:
            raise
        complain("looking at this machine without an agent")
        return None


@click.command()
@click.option("--position", type=POSITION, required=True, help="Of the log.")
@timeout_option
@output_option
@click.pass_obj
def wait(session: Session, position: int, timeout_s: float, output: str) -> None:
    """Return when the datapath has everything up to a position of the log."""

    async def ask(channel: "ClientChannel") -> None:
        await wait_for(channel, position, timeout_s)

    session.call(ask, patience_s=timeout_s + MARGIN_S)
    emit(output, {"position": position}, lambda: f"position {position}")


@click.command()
@output_option
def version(output: str) -> None:
    """Show the version of this command."""
    emit(output, {"version": __version__}, lambda: f"cplane {__version__}")
