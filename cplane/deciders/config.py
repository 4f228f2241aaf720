"""Options of the node that may change while it runs."""

from dataclasses import dataclass, replace

from cplane.deciders.decider import NOTHING, Decision
from cplane.domain.policy.repository import Enforcement
from cplane.errors import Rejected
from cplane.events.config import OptionsChanged
from cplane.events.envelope import CONFIG


class BadOption(Rejected):
    """An option cannot have this value."""

    code = "config.bad_option"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeOptions:
    """The options that are given have these values from now on; None: as it is."""

    policy_enforcement: str | None = None
    policy_audit: bool | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """See OptionsChanged."""

    policy_enforcement: Enforcement = Enforcement.DEFAULT
    policy_audit: bool = False


def decide_change(command: ChangeOptions, held: Options) -> Decision:
    """OptionsChanged, where anything differs."""
    wanted = held
    if command.policy_enforcement is not None:
        if command.policy_enforcement not in set(Enforcement):
            names = ", ".join(Enforcement)
            raise BadOption(f"PolicyEnforcement: {command.policy_enforcement!r} is none of {names}")
        wanted = replace(wanted, policy_enforcement=Enforcement(command.policy_enforcement))
    if command.policy_audit is not None:
        wanted = replace(wanted, policy_audit=command.policy_audit)
    return NOTHING if wanted == held else ((CONFIG, changed(wanted)),)


def evolve(event: OptionsChanged) -> Options:
    """The options after one more fact."""
    return Options(Enforcement.read(event.policy_enforcement), event.policy_audit)


def changed(options: Options) -> OptionsChanged:
    """The event that says these options."""
    return OptionsChanged(policy_enforcement=str(options.policy_enforcement), policy_audit=options.policy_audit)
