"""What of a policy the datapath of this version cannot do, and what becomes of such traffic.

Nothing is ever enforced wider than it is written: what would be is refused, and the rest is narrower and said so.
"""

from collections.abc import Iterator
from typing import NamedTuple

from cplane.domain.policy.redirection import PARSERS
from cplane.domain.policy.rule import AuthType, CloudRef, PortMatch, Rule, Term
from cplane.domain.ports import PORTLESS_PROTOCOLS


class Note(NamedTuple):
    """What is not done at `path`. `refused`: the policy cannot be applied, as it would be wider than written."""

    path: str
    message: str
    refused: bool = False


def notes(rules: tuple[Rule, ...]) -> tuple[Note, ...]:
    """Every note, in the order of the rules."""
    return tuple(note for rule in rules for note in (*_rule_notes(rule), *_term_notes(rule)))


def _rule_notes(rule: Rule) -> Iterator[Note]:
    if rule.about_nodes:
        yield Note(f"{rule.path}.nodeSelector", "host policies are not enforced by this version", refused=True)


def _term_notes(rule: Rule) -> Iterator[Note]:
    for term in rule.terms:
        yield from _peer_notes(term)
        if term.redirect is not None and term.redirect.parser not in PARSERS:
            yield Note(term.path, f"there is no proxy for {term.redirect}: this traffic is dropped (178)")
        if term.auth not in {None, AuthType.DISABLED}:
            yield Note(term.path, "there is no mutual authentication: this traffic is dropped (189)")
        for match in term.l4 or ():
            if isinstance(match, PortMatch) and match.protocol in PORTLESS_PROTOCOLS:
                yield Note(term.path, f"the datapath drops {match.protocol.name} (137)")


def _peer_notes(term: Term) -> Iterator[Note]:
    kinds = {type(peer) for peer in term.peers or ()}
    if CloudRef in kinds:
        selects = "a deny rule that selects nobody would be wider than written" if term.deny else "selects nobody"
        yield Note(term.path, f"groups of a cloud provider are not known here: {selects}", refused=term.deny)
