"""`cplane service apply`: services from manifests of Kubernetes."""

from typing import TYPE_CHECKING, Final

import click

from cplane.cli.manifests import Offline, paths_option, sources
from cplane.cli.service import emit_applied, send
from cplane.cli.session import REFUSED, Session, complain, output_option, wait_options
from cplane.telemetry.collector import without_collector

if TYPE_CHECKING:
    from cplane.k8s.lb import LbManifests
    from cplane.k8s.lb_reading import Here
    from cplane.transport.client import ClientChannel

_BYTES_MAX: Final = 256_000_000
_VALUES_MAX: Final = 32_000_000
_DOCUMENTS_MAX: Final = 200_000
_SHOWN_MAX: Final = 1000  # errors or notes; beyond, their number
_EPILOG: Final = """\b
Read are Service, EndpointSlice, Endpoints, CiliumLocalRedirectPolicy, ports of the host of a Pod, and the labels of
this node from its Node; other kinds are named and left out. Everything is applied or, with one mistake, nothing.
What is not served, or needs somebody who gives addresses, is said.
"""


@click.command("apply", cls=Offline, epilog=_EPILOG)
@paths_option
@click.option("--node", default="", metavar="NAME", help="Whose pods are local and whose labels count; the agent's.")
@wait_options
@output_option
@click.pass_obj
def apply(session: Session, *, paths: tuple[str, ...], node: str, wait: bool, timeout_s: float, output: str) -> None:
    """Apply services and their backends from Kubernetes manifests."""
    from msgspec.json import encode

    from cplane.k8s.lb_reading import Here

    with without_collector():
        found = _sound(_read(paths, Here(node or _node(session))))
        data = encode({"services": found.services, "backends": found.backends})
    emit_applied(output, send(session, data, wait=wait, timeout_s=timeout_s))


def _node(session: Session) -> str:
    """The name of the agent's node."""

    async def ask(channel: "ClientChannel") -> str:
        from cplane.pb.cplane.admin import v1 as pb

        return (await pb.StatusServiceStub(channel).get(pb.GetStatusRequest())).node

    return session.call(ask)


def _read(paths: tuple[str, ...], here: "Here") -> "LbManifests":
    from cplane.config.problems import Bounds
    from cplane.k8s.lb import read_lb
    from cplane.k8s.objects import read_objects

    bounds = Bounds(bytes=_BYTES_MAX, values=_VALUES_MAX, documents=_DOCUMENTS_MAX)
    objects, wrong = read_objects(sources(paths, bytes_max=_BYTES_MAX + 1), bounds)
    found = read_lb(objects, here)
    found.errors[:0] = wrong
    return found


def _sound(found: "LbManifests") -> "LbManifests":
    """What was read, where nothing is wrong with it; otherwise every error is printed and the process ends."""
    for what, findings in (("errors", found.errors), ("notes", found.notes if not found.errors else [])):
        for one in findings[:_SHOWN_MAX]:
            complain(str(one))
        if len(findings) > _SHOWN_MAX:
            complain(f"and {len(findings) - _SHOWN_MAX} more {what}")
    if not found.services and not found.backends and not found.errors:
        complain("there is nothing of services in it")
    if found.errors or not (found.services or found.backends):
        raise SystemExit(REFUSED)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.ignored.items()))
    if kinds:
        complain(f"ignored objects that mean nothing to services: {kinds}")
    return found
