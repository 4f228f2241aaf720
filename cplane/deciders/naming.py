"""What a command is called, and which objects it is about: of one that was refused there are no events to say so."""

import json
from collections.abc import Iterator

from cplane.deciders.config import ChangeOptions
from cplane.deciders.endpoint import ConfigureEndpoint, CreateEndpoint, DeleteEndpoint, RelabelEndpoint
from cplane.deciders.fqdn import ExpireNames, RecordAnswers
from cplane.deciders.node import JoinNode, SetNodeAddresses
from cplane.deciders.policy import ApplyPolicies, DeletePolicies
from cplane.deciders.restore import Restore
from cplane.deciders.service import ApplyServices, ChangeServiceOptions, DeleteServices, SetBackendState
from cplane.deciders.world import Command, ReleaseIdentity
from cplane.events.objects import OPTIONS, SERVICE_OPTIONS, policy_name, service_name


def called(command: Command) -> str:
    """What it is called: two words, of which the first is what it does."""
    name = type(command).__name__
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()


def objects_of(command: Command) -> Iterator[str]:
    """The names of the objects that it is about, as far as it says; those that are not named yet have none."""
    match command:
        case ApplyPolicies():
            yield from filter(None, map(_policy, command.documents))
        case DeletePolicies():
            yield from (policy_name(*ref) for ref in command.refs)
        case ConfigureEndpoint() | RelabelEndpoint():
            yield f"endpoint {command.endpoint}"
        case ReleaseIdentity():
            yield f"identity {command.number}"
        case ChangeOptions():
            yield OPTIONS
        case JoinNode():
            yield f"node {command.name}"
        case ApplyServices():
            names = (*(one.name for one in command.services), *(one.service for one in command.backends))
            yield from (service_name(*name) for name in dict.fromkeys(names))
        case ChangeServiceOptions():
            yield SERVICE_OPTIONS
        case DeleteServices():
            yield from (service_name(*name) for name in command.names)
        case RecordAnswers() | ExpireNames():
            told = command.answers if isinstance(command, RecordAnswers) else command.names
            yield from dict.fromkeys(f"name {one.name}" for one in told)
        case CreateEndpoint() | DeleteEndpoint() | SetNodeAddresses() | Restore() | SetBackendState():
            return
        case _:
            return


def _policy(document: str) -> str:
    """The name of a policy that may be nonsense; empty where it has none."""
    try:
        value = json.loads(document)
        metadata = value["metadata"]
        return policy_name(str(value["kind"]), str(metadata.get("namespace") or ""), str(metadata["name"]))
    except (ValueError, TypeError, KeyError, AttributeError):
        return ""
