"""`cplane policy status`: what became of policies, rule by rule."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from cplane.cli.config import switch_word
from cplane.cli.format import plain, table
from cplane.cli.policy_refs import name_of, name_options, ref_of
from cplane.cli.session import Session, emit, output_option

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.transport.client import ClientChannel

Line = tuple[object, ...]


@click.command()
@click.argument("name", required=False)
@name_options
@output_option
@click.pass_context
def status(context: click.Context, name: str | None, namespace: str, kind: str, output: str) -> None:
    """Show whether policies are enforced, rule by rule: all of them, or the one with this NAME.

    For every rule: how many endpoints of this node it is about; for every part of it, how many identities its peers
    are now and how many entries of the policy map, audit planes included, say what it says. What is not enforced as
    it is written says why; it is never wider than written. Without a NAME, --namespace narrows the list when it is
    given.
    """
    session: Session = context.obj
    given = context.get_parameter_source("namespace") is not click.core.ParameterSource.DEFAULT

    async def ask(channel: "ClientChannel") -> "list[pb.PolicyStatusResponse]":
        from cplane.pb.cplane.admin import v1 as pb

        request = pb.PolicyStatusRequest(namespace=namespace if given else "")
        if name is not None:
            request = pb.PolicyStatusRequest(ref=ref_of(kind, namespace, name))
        return [batch async for batch in pb.PolicyServiceStub(channel).status(request)]

    batches = session.call(ask)
    head = batches[0]
    policies = [policy for batch in batches for policy in batch.policies]
    shown = {
        "position": head.position,
        "applied": head.applied,
        "revision": head.revision,
        "options": plain(head.options),
        "policies": plain(policies),
    }
    emit(output, shown, lambda: _text(head, policies))


def _text(head: "pb.PolicyStatusResponse", policies: "Sequence[pb.PolicyStatus]") -> str:
    headers = ("policy", "rule", "effect", "endpoints", "peers", "entries", "state")
    lines = [line for policy in policies for line in _lines(policy)]
    options = head.options
    mode = ""
    if options:
        mode = f"enforcement {options.policy_enforcement}, audit mode {switch_word(on=options.policy_audit)}"
    applied = "" if head.applied >= head.position else f" ({head.applied} in the datapath)"
    return f"{table(headers, lines)}\nrevision {head.revision}, position {head.position}{applied}, {mode}"


def _lines(policy: "pb.PolicyStatus") -> Iterator[Line]:
    """One for each rule and each part of it; further reasons stand below."""
    name = name_of(policy.ref)
    if policy.prefixes or not policy.rules:
        yield (name, "-", f"{policy.prefixes} prefixes", "-", "-", "-", "-")
        return
    for rule in policy.rules:
        effect = f"default deny {' and '.join(rule.default_deny)}" if rule.default_deny else "no default deny"
        audited = f" ({rule.audited_endpoints} audited)" if rule.audited_endpoints else ""
        first, *more = _states(rule.enforcement, rule.reasons)
        yield (name, rule.path, effect, f"{rule.endpoints}{audited}", "-", "-", first)
        yield from _below(more)
        for term in rule.terms:
            what = f"{term.direction} {'deny' if term.deny else 'allow'}"
            first, *more = _states(term.enforcement, term.reasons)
            yield ("", term.path, what, "", "any" if term.anyone else term.peers, term.entries, first)
            yield from _below(more)
        name = ""


def _states(enforcement: "pb.Enforcement", reasons: Sequence[str]) -> list[str]:
    state = str(plain(enforcement)).replace("_", " ")
    first, *more = reasons or [""]
    return [f"{state}: {first}" if first else state, *more]


def _below(reasons: Sequence[str]) -> Iterator[Line]:
    yield from (("", "", "", "", "", "", reason) for reason in reasons)
