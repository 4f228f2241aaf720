"""`cplane config`: options that may change while the agent runs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import click

from cplane.cli.format import pairs
from cplane.cli.session import MARGIN_S, Session, emit, output_option, wait_for, wait_options

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.transport.client import ClientChannel

AUDIT: Final = "PolicyAuditMode"
DEBUG: Final = "Debug"
ENFORCEMENT: Final = "PolicyEnforcement"
_SWITCH: Final = {"enabled": True, "true": True, "disabled": False, "false": False}
_MODES: Final = {"default": "default", "always": "always", "never": "never"}
CHOICES: Final[Mapping[str, Mapping[str, object]]] = {ENFORCEMENT: _MODES, AUDIT: _SWITCH, DEBUG: _SWITCH}
_SHOWN: Final = {ENFORCEMENT: "default, always or never", **dict.fromkeys((AUDIT, DEBUG), "Enabled or Disabled")}


_EPILOG: Final = """\b
Values:
  PolicyEnforcement=default  endpoints that a rule is about have default deny
  PolicyEnforcement=always   all endpoints have
  PolicyEnforcement=never    none has, and rules bind nobody
  PolicyAuditMode=Enabled    what policies would drop passes, with the verdict AUDIT
  PolicyAuditMode=Disabled   it is dropped, unless the endpoint or the policy is audited itself
  Debug=Enabled              programs tell each of their steps, see hubble observe debug-events
  Debug=Disabled             they do not, which costs nothing
"""


@click.command(epilog=_EPILOG)
@click.argument("assignments", nargs=-1, metavar="[OPTION=VALUE]...")
@wait_options
@output_option
@click.pass_obj
def config(session: Session, *, assignments: tuple[str, ...], wait: bool, timeout_s: float, output: str) -> None:
    """Show the agent's options, or change some of them.

    The change is an event in the log, so it outlives the agent, until it is changed again here or by a flag
    that the agent is started with. Only Debug is not: it lasts until the agent ends.
    """
    wanted = parse_assignments(assignments, (ENFORCEMENT, AUDIT, DEBUG))

    async def ask(channel: "ClientChannel") -> "pb.GetOptionsResponse | pb.ChangeOptionsResponse":
        from cplane.pb.cplane.admin import v1 as pb

        stub = pb.ConfigServiceStub(channel)
        if not wanted:
            return await stub.get(pb.GetOptionsRequest())
        mode, audit, debug = (wanted.get(name) for name in (ENFORCEMENT, AUDIT, DEBUG))
        answer = await stub.change(
            pb.ChangeOptionsRequest(
                policy_enforcement=None if mode is None else str(mode),
                policy_audit=None if audit is None else bool(audit),
                debug=None if debug is None else bool(debug),
            )
        )
        if wait:
            await wait_for(channel, answer.position, timeout_s)
        return answer

    answer = session.call(ask, patience_s=timeout_s + MARGIN_S)
    options = answer.options
    rows = _rows(options, answer.debug) if options else []
    shown = {"position": answer.position, "options": dict(rows)}
    emit(output, shown, lambda: pairs([*rows, ("position", answer.position)]))


def _rows(options: "pb.Options", debug: "bool | None") -> list[tuple[str, str]]:
    shown = [(ENFORCEMENT, options.policy_enforcement), (AUDIT, switch_word(on=options.policy_audit))]
    return shown if debug is None else [*shown, (DEBUG, switch_word(on=debug))]


def parse_assignments(texts: Sequence[str], known: Sequence[str]) -> dict[str, object]:
    """Option → value. Names and values are taken in any case. Raises UsageError for what is none of them."""
    names = {name.lower(): name for name in known}
    found: dict[str, object] = {}
    for text in texts:
        given, equals, value = text.partition("=")
        name = names.get(given.lower())
        if name is None:
            raise click.UsageError(f"there is no option {given!r}; options are {', '.join(known)}")
        if not equals:
            raise click.UsageError(f"{name} has no value: write {name}=VALUE, without arguments all values are shown")
        choices = CHOICES[name]
        if value.lower() not in choices:
            raise click.UsageError(f"{name}: {value!r} is not {_SHOWN[name]}")
        if name in found:
            raise click.UsageError(f"{name} is given twice")
        found[name] = choices[value.lower()]
    return found


def switch_word(*, on: bool) -> str:
    """How an option is shown that is on or off."""
    return "Enabled" if on else "Disabled"
