"""`hubble observe`: its options. What they do is in `observing` and `observing_happenings`."""

from collections.abc import Mapping
from typing import Any, Final

import click

from cplane.hubble.cli.flags import complete, filter_options
from cplane.hubble.cli.options import Command, filters_of, global_options, server_options, settings_of, spelled
from cplane.hubble.cli.selectors import (
    common_formatting,
    from_file,
    option,
    quiet,
    raw_filters,
    section,
    selectors,
    switch,
)
from cplane.hubble.cli.wanted import AGENT_TYPES, Wanted

_HELP: Final = """Show flows: what was sent from whom to whom, and what became of it.

Without selectors these are the last 20. Filters select flows for which one value at least of each flag holds;
after --not they leave out flows for which it does.

\b
  hubble observe --follow --namespace shop --verdict DROPPED
  hubble observe --since 5m --to-pod shop/api --not --protocol icmp
  hubble observe --last 1000 -o json > flows.json
  hubble observe --input-file flows.json --port 53
"""
_COLORS: Final = ("auto", "always", "never")


_formatting = section(
    "Formatting",
    switch("--print-policy-names", "policy_names", help="Show which policies allowed or denied it."),
    switch("--numeric", help="Show addresses in place of names."),
    switch("--ip-translation", "names", default=True, help="Show names in place of addresses; on, unless =false."),
    option(
        "--color",
        type=click.Choice(_COLORS, case_sensitive=False),
        default="auto",
        show_default=True,
        help="Colours, for compact and dict.",
    ),
)
_other = section(
    "Other",
    option(
        "--field-mask",
        "--experimental-field-mask",
        "field_mask",
        multiple=True,
        metavar="FIELDS",
        help="Fields of flows to ask for, with commas in between; for JSON only.",
    ),
    switch(
        "--experimental-use-default-field-masks",
        "--use-default-field-masks",
        "default_mask",
        default=True,
        help="Ask for no more than is shown, where that is not JSON; on, unless =false.",
    ),
)


_agent_types = section(
    "Filters",
    option(
        "-t",
        "--type",
        "types",
        multiple=True,
        metavar="TYPE",
        shell_complete=complete(AGENT_TYPES),
        help=f"Only events of this type: {', '.join(AGENT_TYPES)}; agent: may stand before it.",
    ),
)


class Observe(Command):
    """Shows flows, unless one of `others` (name → command) is named among the arguments."""

    others: Mapping[str, click.Command] = {}

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401  # click's own
    ) -> click.Context:
        """The context of the command that is meant; its options may stand on either side of its name."""
        word = self._word(args, parent)
        if word is None:
            return super().make_context(info_name, args, parent, **extra)
        rest = list(args)
        rest.remove(word)
        return self.others[word].make_context(f"{info_name} {word}", rest, parent, **extra)

    def _word(self, args: list[str], parent: click.Context | None) -> str | None:
        """The first argument that is neither an option nor the value of one, if it names another command."""
        known = set(self.others).intersection(args)
        if not known:
            return None
        context = click.Context(self, parent=parent, resilient_parsing=True)
        parser = self.make_parser(context)
        parser.ignore_unknown_options = True
        values, rest, _ = parser.parse_args(spelled(self.get_params(context), args))
        first = values.get("what") or next(iter(rest), None)
        return first if first in known else None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, and what else can be observed."""
        super().format_options(ctx, formatter)
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str()) for name, one in self.others.items()])


@click.command(cls=Observe, help=_HELP)
@click.argument("what", type=click.Choice(["flows"]), required=False, expose_value=False)
@selectors
@filter_options
@raw_filters
@common_formatting
@_formatting
@quiet
@from_file
@_other
@server_options
@global_options
@click.pass_context
def observe(ctx: click.Context, /, **given: Any) -> None:  # noqa: ANN401  # the fields of Wanted
    """Show flows, or write the filters for them."""
    from cplane.hubble.cli.observing import observe_flows

    observe_flows(settings_of(ctx), Wanted(filters=tuple(filters_of(ctx)), **given))


@click.command("agent-events", cls=Command)
@selectors
@_agent_types
@common_formatting
@quiet
@server_options
@global_options
@click.pass_context
def agent_events(ctx: click.Context, /, **given: Any) -> None:  # noqa: ANN401  # the fields of Wanted
    """Show what agents did: started, took policies, regenerated endpoints, learned addresses."""
    from cplane.hubble.cli.observing_happenings import observe_agent_events

    observe_agent_events(settings_of(ctx), Wanted(**given))


@click.command("debug-events", cls=Command)
@selectors
@common_formatting
@quiet
@server_options
@global_options
@click.pass_context
def debug_events(ctx: click.Context, /, **given: Any) -> None:  # noqa: ANN401  # the fields of Wanted
    """Show what the datapath had to say about packets, where its debug messages are on."""
    from cplane.hubble.cli.observing_happenings import observe_debug_events

    observe_debug_events(settings_of(ctx), Wanted(**given))


Observe.others = {"agent-events": agent_events, "debug-events": debug_events}
