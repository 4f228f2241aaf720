"""What users want, as it was once: policies, options, services, what was set of endpoints, in one command."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cplane.deciders import config, endpoint, policy, service
from cplane.deciders.config import ChangeOptions, Options
from cplane.deciders.decider import NOTHING, Decision
from cplane.deciders.endpoint import ConfigureEndpoint, EndpointState
from cplane.deciders.policy import ApplyPolicies, DeletePolicies, InvalidDocuments, PolicyState
from cplane.deciders.servicestate import ServiceState
from cplane.domain.policy import PolicyRef
from cplane.errors import Rejected

POLICIES: Final = "policies"
OPTIONS: Final = "options"
ENDPOINTS: Final = "endpoints"
SERVICES: Final = "services"
PARTS: Final = (POLICIES, OPTIONS, ENDPOINTS, SERVICES)
"""What can be restored; of endpoints it is whether they are only audited. Pods that are gone stay gone."""


class NoLongerAccepted(Rejected):
    """Policies that were accepted then are not accepted now; `errors` are (policy, path, message)."""

    code = "restore.no_longer_accepted"

    def __init__(self, errors: tuple[tuple[PolicyRef, str, str], ...]) -> None:
        self.errors = errors

    def __str__(self) -> str:
        said = "; ".join(f"{ref}, {path}: {message}" for ref, path, message in self.errors)
        return f"not accepted as it was then: {said}; nothing was changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """These are the policies, options and services, and these endpoints are (not) audited; None: it stays as it is.

    Endpoints that are not there any more are left out.
    """

    documents: Mapping[PolicyRef, str] | None = None
    options: Options | None = None
    audits: Mapping[int, bool] | None = None
    services: ServiceState | None = None


def decide_restore(
    command: Restore,
    policies: PolicyState,
    options: Options,
    endpoints: EndpointState,
    services: ServiceState,
    cluster: str,
) -> Decision:
    """The fewest events that lead there. Raises NoLongerAccepted, TooManyPrefixes, and InvalidServices."""
    decided: Decision = NOTHING
    if command.options is not None:
        wanted = command.options
        decided += config.decide_change(
            ChangeOptions(policy_enforcement=str(wanted.policy_enforcement), policy_audit=wanted.policy_audit), options
        )
    if command.documents is not None:
        decided += _policies(command.documents, policies, cluster)
    for number, audit in sorted((command.audits or {}).items()):
        if number in endpoints.by_id:
            decided += endpoint.decide_configure(ConfigureEndpoint(endpoint=number, audit=audit), endpoints)
    if command.services is not None:
        decided += service.decide_restore(command.services, services)
    return decided


def _policies(documents: Mapping[PolicyRef, str], held: PolicyState, cluster: str) -> Decision:
    changed = sorted(ref for ref, text in documents.items() if held.documents.get(ref) != text)
    gone = tuple(sorted(ref for ref in held.documents if ref not in documents))
    try:
        applied = policy.decide_apply(ApplyPolicies(documents=tuple(documents[ref] for ref in changed)), held, cluster)
    except InvalidDocuments as invalid:
        errors = tuple((changed[index], path, message) for index, path, message in invalid.errors)
        raise NoLongerAccepted(errors) from None
    return applied + policy.decide_delete(DeletePolicies(refs=gone), held)
