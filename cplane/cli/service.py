"""`cplane service`: services and their backends."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import click

from cplane.cli.format import table
from cplane.cli.session import MARGIN_S, Session, emit, output_option, wait_for, wait_options

if TYPE_CHECKING:
    from cplane.deciders.servicestate import ShownService
    from cplane.domain.service import Backend, Frontend
    from cplane.events.service import BackendRecord, FrontendRecord
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.transport.client import ClientChannel

_KINDS: Final = ("ClusterIP", "NodePort", "ExternalIPs", "LoadBalancer", "HostPort", "LocalRedirect")
_SOURCE: Final = "cplane"
_BACKENDS_SHOWN: Final = 8
_SHOWN_APART: Final = frozenset({"namespace", "name", "frontends"})


@click.group()
def service() -> None:
    """Apply, delete and show services: addresses that stand for backends."""


def send(session: Session, described: bytes, *, wait: bool, timeout_s: float) -> "pb.ApplyServicesResponse":
    """What became of a description of services."""

    async def ask(channel: "ClientChannel") -> "pb.ApplyServicesResponse":
        from cplane.pb.cplane.admin import v1 as pb

        answer = await pb.ServiceServiceStub(channel).apply(pb.ApplyServicesRequest(described=described))
        if wait:
            await wait_for(channel, answer.position, timeout_s, applied=answer.applied)
        return answer

    return session.call(ask, patience_s=timeout_s + MARGIN_S)


def emit_applied(output: str, answer: "pb.ApplyServicesResponse") -> None:
    """What has changed, and the position."""
    lines = [f"{one.ref.namespace}/{one.ref.name} changed" for one in answer.changed if one.ref]
    emit(output, answer, lambda: "\n".join([*lines, f"position {answer.position}"]))


@service.command()
@click.argument("name", metavar="[NAMESPACE/]NAME")
@click.option(
    "--frontend",
    "frontends",
    multiple=True,
    required=True,
    metavar="ADDRESS:PORT[/PROTOCOL][=KIND]",
    help=f"Where clients go; 0.0.0.0 or [::] is any address of the node. KIND: {', '.join(_KINDS)}.",
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    metavar="ADDRESS:PORT[/PROTOCOL][,weight=N][,state=STATE][,node=NODE]",
    help="Where connections end; the protocol is that of the frontends if it is left out.",
)
@click.option("--affinity", "affinity_s", type=click.IntRange(0, 0xFFFFFF), default=0, metavar="SECONDS")
@click.option("--external-local", is_flag=True, help="Who comes from outside reaches this node's backends only.")
@click.option("--internal-local", is_flag=True, help="Who is in the cluster reaches this node's backends only.")
@click.option("--source-range", "ranges", multiple=True, metavar="PREFIX", help="Clients of load balancer addresses.")
@click.option("--deny-source-ranges", is_flag=True, help="They are the clients that are not served.")
@click.option("--algorithm", type=click.Choice(["random", "maglev"]), help="By default the node's.")
@click.option("--forwarding", type=click.Choice(["snat", "dsr", "hybrid"]), help="By default the node's.")
@click.option("--drop", is_flag=True, help="Without backends packets are dropped in silence.")
@click.option(
    "--health-path",
    default="",
    metavar="PATH",
    help="What backends are asked for by HTTP where they are tried.",
)
@wait_options
@output_option
@click.pass_obj
def upsert(
    session: Session,
    *,
    name: str,
    frontends: tuple[str, ...],
    backends: tuple[str, ...],
    affinity_s: int,
    external_local: bool,
    internal_local: bool,
    ranges: tuple[str, ...],
    deny_source_ranges: bool,
    algorithm: str | None,
    forwarding: str | None,
    drop: bool,
    health_path: str,
    wait: bool,
    timeout_s: float,
    output: str,
) -> None:
    """Make a service what is said here; its backends are those that are named here."""
    from msgspec.json import encode

    from cplane.domain.service import Algorithm, Backends, Forwarding, Service, ServiceName

    full = ServiceName(*_split(name))
    fronts = tuple(map(_frontend, frontends))
    protocols = {one.protocol.name for one in fronts}
    made = tuple(_backend(text, protocols) for text in backends)
    described = Service(
        name=full,
        frontends=fronts,
        affinity_s=affinity_s,
        external_local=external_local,
        internal_local=internal_local,
        source_ranges=ranges,
        ranges_deny=deny_source_ranges,
        algorithm=Algorithm(algorithm or ""),
        forwarding=Forwarding(forwarding or ""),
        drop=drop,
        health_path=health_path,
    )
    data = encode({"services": [described], "backends": [Backends(full, _SOURCE, made)]})
    emit_applied(output, send(session, data, wait=wait, timeout_s=timeout_s))


@service.command()
@click.argument("names", nargs=-1, required=True, metavar="[NAMESPACE/]NAME...")
@wait_options
@output_option
@click.pass_obj
def delete(session: Session, *, names: tuple[str, ...], wait: bool, timeout_s: float, output: str) -> None:
    """Delete services with their backends; all of them or none."""

    async def ask(channel: "ClientChannel") -> "pb.DeleteServicesResponse":
        from cplane.pb.cplane.admin import v1 as pb

        refs = [pb.ServiceRef(namespace=space, name=short) for space, short in map(_split, names)]
        answer = await pb.ServiceServiceStub(channel).delete(pb.DeleteServicesRequest(refs=refs))
        if wait:
            await wait_for(channel, answer.position, timeout_s, applied=answer.applied)
        return answer

    answer = session.call(ask, patience_s=timeout_s + MARGIN_S)
    lines = [f"{ref.namespace}/{ref.name} deleted" for ref in answer.deleted]
    emit(output, answer, lambda: "\n".join([*lines, f"position {answer.position}"]))


@service.command("list")
@click.option("-n", "--namespace", default="", help="Only this namespace.")
@output_option
@click.pass_obj
def list_(session: Session, namespace: str, output: str) -> None:
    """Show services: frontends, and the backends that are behind each."""
    from msgspec import to_builtins

    position, services = _listed(session, namespace, "")
    rows = [row for one in services for row in _rows(one)]
    emit(output, {"position": position, "services": to_builtins(services)}, lambda: table(_HEADERS, rows))


@service.command()
@click.argument("name", metavar="[NAMESPACE/]NAME")
@output_option
@click.pass_obj
def get(session: Session, name: str, output: str) -> None:
    """Show one service with all of its backends."""
    from msgspec import to_builtins

    namespace, short = _split(name)
    _, services = _listed(session, namespace, short)
    (one,) = services
    emit(output, to_builtins(one), lambda: _page(one))


@service.command()
@click.argument("place", metavar="ADDRESS:PORT[/PROTOCOL]")
@click.option("--state", type=click.Choice(["active", "quarantined", "maintenance"]), required=True)
@wait_options
@output_option
@click.pass_obj
def backend(session: Session, *, place: str, state: str, wait: bool, timeout_s: float, output: str) -> None:
    """Take a backend out of service, or back into it; it gets no new connections unless it is active."""
    from cplane.domain.service import parse_shown

    try:
        address, port, protocol = parse_shown(place)
    except ValueError as error:
        raise click.UsageError(str(error)) from None

    async def ask(channel: "ClientChannel") -> int:
        from cplane.pb.cplane.admin import v1 as pb

        request = pb.SetBackendStateRequest(address=address, port=port, protocol=protocol.name, state=state)
        answer = await pb.ServiceServiceStub(channel).set_backend_state(request)
        if wait:
            await wait_for(channel, answer.position, timeout_s, applied=answer.applied)
        return answer.position

    position = session.call(ask, patience_s=timeout_s + MARGIN_S)
    emit(output, {"position": position}, lambda: f"position {position}")


_HEADERS: Final = ("id", "frontend", "type", "namespace", "name", "backends")


def _listed(session: Session, namespace: str, name: str) -> "tuple[int, list[ShownService]]":
    async def ask(channel: "ClientChannel") -> "tuple[int, list[ShownService]]":
        from msgspec.json import decode

        from cplane.deciders.servicestate import ShownService
        from cplane.pb.cplane.admin import v1 as pb

        position, found = 0, []
        request = pb.ListServicesRequest(namespace=namespace, name=name)
        async for answer in pb.ServiceServiceStub(channel).list(request):
            position = answer.position
            found += decode(answer.services, type=list[ShownService])
        return position, found

    return session.call(ask, patience_s=None)


def _rows(one: "ShownService") -> Iterable[tuple[object, ...]]:
    from cplane.domain.service import leads_to

    held = one.service
    for front in held.frontends:
        mine = [f"{_place(back)}{_state(back)}" for back in one.backends if leads_to(front, back)]
        yield front.id, _place(front), front.kind, held.namespace, held.name, _some(mine)


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - _BACKENDS_SHOWN} more" if len(texts) > _BACKENDS_SHOWN else ""
    return " ".join(texts[:_BACKENDS_SHOWN]) + more or "-"


def _page(one: "ShownService") -> str:
    from msgspec import to_builtins

    held = one.service
    fronts = [(front.id, _place(front), front.kind, front.port_name or "-") for front in held.frontends]
    backs = [
        (
            back.id,
            _place(back),
            back.port_name or "-",
            back.state,
            back.weight,
            back.node or "-",
            " ".join(back.zones) or "-",
        )
        for back in one.backends
    ]
    said = {key: value for key, value in to_builtins(held).items() if key not in _SHOWN_APART and value}
    lines = [f"{held.namespace}/{held.name}"]
    lines += [f"{key}: {' '.join(value) if isinstance(value, (list, tuple)) else value}" for key, value in said.items()]
    lines += ["", table(("id", "frontend", "type", "port"), fronts)]
    lines += ["", table(("id", "backend", "port", "state", "weight", "node", "zones"), backs)]
    return "\n".join(lines)


def _place(one: "FrontendRecord | BackendRecord") -> str:
    from cplane.domain.service import shown

    return shown(one.address, one.port, one.protocol)


def _state(one: "BackendRecord") -> str:
    """What is said of a backend's state behind its place."""
    return "" if one.state == "active" else f" ({one.state})"


def _split(name: str) -> tuple[str, str]:
    namespace, slash, short = name.rpartition("/")
    return (namespace if slash else "default", short)


def _frontend(text: str) -> "Frontend":
    from cplane.domain.service import ANY_ADDRESS, Frontend, FrontendKind, parse_shown

    place, equals, kind = text.partition("=")
    if equals and kind not in _KINDS:
        raise click.BadParameter(f"{text!r}: {kind!r} is none of {', '.join(_KINDS)}", param_hint="--frontend")
    try:
        address, port, protocol = parse_shown(place)
        default = FrontendKind.NODE_PORT if address in ANY_ADDRESS else FrontendKind.CLUSTER_IP
        return Frontend(address, port, protocol, FrontendKind(kind) if equals else default)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--frontend") from None


def _backend(text: str, protocols: set[str]) -> "Backend":
    from cplane.domain.service import WEIGHT_MAX, Backend, BackendState, parse_shown

    place, *more = text.split(",")
    if "/" not in place:
        if len(protocols) > 1:
            raise click.BadParameter(f"{text!r}: say which protocol, as in {place}/TCP", param_hint="--backend")
        place = f"{place}/{next(iter(protocols))}"
    said: dict[str, str] = {}
    for one in more:
        key, _, value = one.partition("=")
        if key not in {"weight", "state", "node"}:
            raise click.BadParameter(f"{text!r}: {key!r} is none of weight, state, node", param_hint="--backend")
        said[key] = value
    weight, state = said.get("weight", "1"), said.get("state", "active")
    if not (weight.isascii() and weight.isdecimal() and len(weight) <= len(str(WEIGHT_MAX))):
        raise click.BadParameter(f"{text!r}: {weight!r} is no weight from 0 to {WEIGHT_MAX}", param_hint="--backend")
    if state not in list(BackendState):
        states = ", ".join(BackendState)
        raise click.BadParameter(f"{text!r}: {state!r} is none of {states}", param_hint="--backend")
    try:
        address, port, protocol = parse_shown(place)
        return Backend(
            address,
            port,
            protocol,
            state=BackendState(state),
            weight=int(weight),
            node=said.get("node", ""),
        )
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--backend") from None
