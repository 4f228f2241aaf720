"""`cplane policy`: apply, delete, list, get, wait; other modules add more."""

import json
from typing import TYPE_CHECKING, BinaryIO

import click

from cplane.cli.format import plain, table, to_json, to_yaml
from cplane.cli.numbers import POSITION
from cplane.cli.policy_refs import name_of, name_options, ref_of
from cplane.cli.session import MARGIN_S, Session, emit, output_option, timeout_option, wait_for, wait_options

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.transport.client import ClientChannel


@click.group()
def policy() -> None:
    """Apply, delete and show policies."""


@policy.command()
@click.option("-f", "--file", "file", type=click.File("rb"), required=True, help="YAML or JSON; - is standard input.")
@wait_options
@output_option
@click.pass_obj
def apply(session: Session, *, file: BinaryIO, wait: bool, timeout_s: float, output: str) -> None:
    """Put all objects of a file in force, or none of them.

    The file may hold several documents and lists. Prints what became of each object, and the position of the
    log at which all of it is true; with --wait, when the datapath has it.
    """
    session.source = _source(file)
    text = file.read()

    async def ask(channel: "ClientChannel") -> "pb.ApplyPolicyResponse":
        from cplane.pb.cplane.admin import v1 as pb

        answer = await pb.PolicyServiceStub(channel).apply(pb.ApplyPolicyRequest(documents=text))
        if wait:
            await wait_for(channel, answer.position, timeout_s)
        return answer

    answer = session.call(ask, patience_s=timeout_s + MARGIN_S)
    lines = [f"{name_of(one.ref)} {plain(one.outcome)}" for one in answer.policies]
    emit(output, answer, lambda: "\n".join([*lines, f"position {answer.position}"]))


@policy.command()
@click.argument("name", required=False)
@click.option("-f", "--file", "file", type=click.File("rb"), help="Delete what this file would apply.")
@name_options
@wait_options
@output_option
@click.pass_obj
def delete(
    session: Session,
    *,
    name: str | None,
    file: BinaryIO | None,
    namespace: str,
    kind: str,
    wait: bool,
    timeout_s: float,
    output: str,
) -> None:
    """Delete one policy by name, or all objects of a file; all of them or none."""
    if (name is None) == (file is None):
        raise click.UsageError("give a policy's NAME, or a file with -f")
    text = b""
    if file is not None:
        session.source, text = _source(file), file.read()
        if not text.strip():
            raise click.UsageError(f"{session.source} is empty")

    async def ask(channel: "ClientChannel") -> "pb.DeletePolicyResponse":
        from cplane.pb.cplane.admin import v1 as pb

        refs = [ref_of(kind, namespace, name)] if name is not None else []
        answer = await pb.PolicyServiceStub(channel).delete(pb.DeletePolicyRequest(refs=refs, documents=text))
        if wait:
            await wait_for(channel, answer.position, timeout_s)
        return answer

    answer = session.call(ask, patience_s=timeout_s + MARGIN_S)
    lines = [f"{name_of(ref)} deleted" for ref in answer.deleted]
    emit(output, answer, lambda: "\n".join([*lines, f"position {answer.position}"]))


@policy.command("list")
@click.option("-n", "--namespace", default="", help="Only this namespace.")
@output_option
@click.pass_obj
def list_(session: Session, namespace: str, output: str) -> None:
    """Show which policies are in force, and the groups of prefixes that they may refer to.

    What a policy with audit would drop passes, with the verdict AUDIT; its annotation policy.cplane.io/audit
    says so.
    """

    async def ask(channel: "ClientChannel") -> "pb.ListPoliciesResponse":
        from cplane.pb.cplane.admin import v1 as pb

        return await pb.PolicyServiceStub(channel).list(pb.ListPoliciesRequest(namespace=namespace))

    answer = session.call(ask)
    rows = [
        (one.ref.kind, one.ref.namespace or "-", one.ref.name, *_content(one), "yes" if one.audit else "-")
        for one in answer.policies
        if one.ref
    ]
    shown = {
        "position": answer.position,
        "revision": answer.revision,
        "policies": [json.loads(one.document) for one in answer.policies],
    }
    emit(output, shown, lambda: table(("kind", "namespace", "name", "rules", "prefixes", "audit"), rows))


@policy.command()
@click.argument("name")
@name_options
@click.option(
    "-o",
    "--output",
    type=click.Choice(["yaml", "json"]),
    default="yaml",
    show_default=True,
    help="How to print it.",
)
@click.pass_obj
def get(session: Session, name: str, namespace: str, kind: str, output: str) -> None:
    """Print a policy as it was applied; `policy apply` takes it back."""

    async def ask(channel: "ClientChannel") -> "pb.GetPolicyResponse":
        from cplane.pb.cplane.admin import v1 as pb

        return await pb.PolicyServiceStub(channel).get(pb.GetPolicyRequest(ref=ref_of(kind, namespace, name)))

    answer = session.call(ask)
    document = json.loads(answer.policy.document) if answer.policy else {}
    click.echo(to_json(document) if output == "json" else to_yaml(document))


@policy.command()
@click.option("--position", type=POSITION, help="Of the log; by default the newest one.")
@timeout_option
@output_option
@click.pass_obj
def wait(session: Session, position: int | None, timeout_s: float, output: str) -> None:
    """Return when the datapath enforces everything that has been applied."""

    async def ask(channel: "ClientChannel") -> int:
        from cplane.pb.cplane.admin import v1 as pb

        wanted = position
        if wanted is None:
            wanted = (await pb.StatusServiceStub(channel).get(pb.GetStatusRequest())).head
        await wait_for(channel, wanted, timeout_s)
        return wanted

    reached = session.call(ask, patience_s=timeout_s + MARGIN_S)
    emit(output, {"position": reached}, lambda: f"position {reached}")


def _source(file: BinaryIO) -> str:
    """What errors call the file."""
    return getattr(file, "name", "<stdin>")


def _content(one: "pb.Policy") -> tuple[object, object]:
    """How many rules, or how many prefixes."""
    is_group = one.ref is not None and one.ref.kind == "CiliumCIDRGroup"
    return ("-", one.prefixes) if is_group else (one.rules, "-")
