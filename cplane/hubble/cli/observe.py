"""`hubble observe`: its options. What they do is in `observing`."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from cplane.hubble.cli.flags import filter_options
from cplane.hubble.cli.options import (
    Command,
    Option,
    Switch,
    filters_of,
    global_options,
    note,
    server_options,
    settings_of,
)
from cplane.hubble.cli.times import LAYOUTS
from cplane.hubble.cli.wanted import JSON, TABLE, Wanted

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., object])

_FORMATS: Final = ("compact", "dict", *JSON, *TABLE)
_COLORS: Final = ("auto", "always", "never")
_DATES: Final = "2006-01-02, 2006-01-02T15Z, 2006-01-02T15:04:05.999Z or Mon, 02 Jan 2006 15:04:05 -0700"


class _Count(click.ParamType[int]):
    """How many; 0 is as good as nothing given."""

    name = "n"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number, of 64 bits at most."""
        text = str(value)
        if not (text.isascii() and text.isdecimal() and int(text) < 1 << 64):
            self.fail(f"{text!r} is not a number of flows.", param, ctx)
        return int(text)


def _section(name: str, *options: Callable[[AnyCommand], AnyCommand]) -> Callable[[AnyCommand], AnyCommand]:
    """The command takes the options, below that heading."""

    def decorate(command: AnyCommand) -> AnyCommand:
        for option in reversed(options):
            command = option(command)
        for param in getattr(command, "__click_params__", [])[-len(options) :]:
            param.section = name
        return command

    return decorate


def _option(*names: str, **settings: Any) -> Callable[[AnyCommand], AnyCommand]:  # noqa: ANN401  # click's own
    return click.option(*names, cls=Option, **settings)


def _switch(*names: str, **settings: Any) -> Callable[[AnyCommand], AnyCommand]:  # noqa: ANN401  # click's own
    return click.option(*names, cls=Switch, **settings)


def _raw(name: str, text: str) -> Callable[[AnyCommand], AnyCommand]:
    return _option(f"--{name}", multiple=True, expose_value=False, callback=note, metavar="JSON", help=text)


_selectors = _section(
    "Selectors",
    _option(
        "--last",
        type=_Count(),
        default=0,
        metavar="N",
        help="The last N flows, of each node where a relay is asked.  [default: 20, or all where a time is given]",
    ),
    _option("--first", type=_Count(), default=0, metavar="N", help="The first N flows that the server still has."),
    _switch("--all", "everything", help="All flows that the server still has."),
    _switch("-f", "--follow", help="Go on with the flows to come, until interrupted."),
    _option(
        "--since",
        default="",
        metavar="TIME",
        help=f"Flows since then: so long ago, e.g. 3s, 4m or 1h43m, or {_DATES}.",
    ),
    _option("--until", default="", metavar="TIME", help="Flows until then; without effect where they are followed."),
)
_raw_filters = _section(
    "Raw filters",
    _raw("allowlist", "FlowFilters of which one must match."),
    _raw("denylist", "FlowFilters of which none may match."),
    _switch("--print-raw-filters", "raw_only", help="Print all filters, as a configuration file takes them, and end."),
)
_formatting = _section(
    "Formatting",
    _option(
        "-o",
        "--output",
        type=click.Choice(_FORMATS, case_sensitive=False),
        default="compact",
        show_default=True,
        help="json is short for jsonpb, tab for table.",
    ),
    _option(
        "--time-format",
        type=click.Choice(list(LAYOUTS), case_sensitive=False),
        default="StampMilli",
        show_default=True,
        metavar="LAYOUT",
        help=f"How times are written, always in UTC: {', '.join(LAYOUTS)}. JSON has a way of its own.",
    ),
    _switch("--print-node-name", "node_name", help="Show where a flow was seen."),
    _switch("--print-policy-names", "policy_names", help="Show which policies allowed or denied it."),
    _switch("--numeric", help="Show addresses in place of names."),
    _switch("--ip-translation", "names", default=True, help="Show names in place of addresses; on, unless =false."),
    _option(
        "--color",
        type=click.Choice(_COLORS, case_sensitive=False),
        default="auto",
        show_default=True,
        help="Colours, for compact and dict.",
    ),
)
_other = _section(
    "Other",
    _switch("-s", "--silent-errors", "silent", help="No warnings, and no news of nodes that fail."),
    _option(
        "--field-mask",
        multiple=True,
        metavar="FIELDS",
        help="Fields of flows to ask for, with commas in between; for JSON only.",
    ),
    _switch(
        "--use-default-field-masks",
        "default_mask",
        default=True,
        help="Ask for no more than is shown, where that is not JSON; on, unless =false.",
    ),
)


@click.command(cls=Command)
@click.argument("what", type=click.Choice(["flows"]), required=False, expose_value=False)
@_selectors
@filter_options
@_raw_filters
@_formatting
@_other
@server_options
@global_options
@click.pass_context
def observe(ctx: click.Context, /, **given: Any) -> None:  # noqa: ANN401  # the fields of Wanted
    r"""Show flows: what was sent from whom to whom, and what became of it.

    Without selectors these are the last 20. Filters select flows for which one value at least of each flag holds;
    after --not they leave out flows for which it does.

    \b
      hubble observe --follow --namespace shop --verdict DROPPED
      hubble observe --since 5m --to-pod shop/api --not --protocol icmp
      hubble observe --last 1000 -o json
    """
    from cplane.hubble.cli.observing import observe_flows

    observe_flows(settings_of(ctx), Wanted(filters=tuple(filters_of(ctx)), **given))
