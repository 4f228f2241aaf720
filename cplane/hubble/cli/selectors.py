"""Options of all commands that ask for flows or for events: how many, of when, which, and how they are shown."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from cplane.hubble.cli.options import Option, Switch, note
from cplane.hubble.cli.times import LAYOUTS
from cplane.hubble.cli.wanted import JSON, TABLE

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., object])

_FORMATS: Final = ("compact", "dict", *JSON, *TABLE)
_DATES: Final = "2006-01-02, 2006-01-02T15Z, 2006-01-02T15:04:05.999Z or Mon, 02 Jan 2006 15:04:05 -0700"


class Count(click.ParamType[int]):
    """How many; 0 is as good as nothing given."""

    name = "n"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number, of 64 bits at most."""
        text = str(value)
        if not (text.isascii() and text.isdecimal() and int(text) < 1 << 64):
            self.fail(f"{text!r} is not a number of flows.", param, ctx)
        return int(text)


def section(name: str, *options: Callable[[AnyCommand], AnyCommand]) -> Callable[[AnyCommand], AnyCommand]:
    """The command takes the options, below that heading."""

    def decorate(command: AnyCommand) -> AnyCommand:
        for option in reversed(options):
            command = option(command)
        for param in getattr(command, "__click_params__", [])[-len(options) :]:
            param.section = name
        return command

    return decorate


def option(*names: str, **settings: Any) -> Callable[[AnyCommand], AnyCommand]:  # noqa: ANN401  # click's own
    """As `click.option`."""
    return click.option(*names, cls=Option, **settings)


def switch(*names: str, **settings: Any) -> Callable[[AnyCommand], AnyCommand]:  # noqa: ANN401  # click's own
    """As `option`; it is on or off."""
    return click.option(*names, cls=Switch, **settings)


def _raw(name: str, text: str) -> Callable[[AnyCommand], AnyCommand]:
    return option(f"--{name}", multiple=True, expose_value=False, callback=note, metavar="JSON", help=text)


selectors = section(
    "Selectors",
    option(
        "--last",
        type=Count(),
        default=0,
        metavar="N",
        help="The last N flows, of each node where a relay is asked.  [default: 20, or all where a time is given]",
    ),
    option("--first", type=Count(), default=0, metavar="N", help="The first N flows that the server still has."),
    switch("--all", "everything", help="All flows that the server still has."),
    switch("-f", "--follow", help="Go on with the flows to come, until interrupted."),
    option(
        "--since",
        default="",
        metavar="TIME",
        help=f"Flows since then: so long ago, e.g. 3s, 4m or 1h43m, or {_DATES}.",
    ),
    option("--until", default="", metavar="TIME", help="Flows until then; without effect where they are followed."),
)
raw_filters = section(
    "Raw filters",
    _raw("allowlist", "FlowFilters of which one must match."),
    _raw("denylist", "FlowFilters of which none may match."),
    switch("--print-raw-filters", "raw_only", help="Print all filters, as a configuration file takes them, and end."),
)
common_formatting = section(
    "Formatting",
    option(
        "-o",
        "--output",
        type=click.Choice(_FORMATS, case_sensitive=False),
        default="compact",
        show_default=True,
        help="json is short for jsonpb, tab for table.",
    ),
    option(
        "--time-format",
        type=click.Choice(list(LAYOUTS), case_sensitive=False),
        default="StampMilli",
        show_default=True,
        metavar="LAYOUT",
        help=f"How times are written, always in UTC: {', '.join(LAYOUTS)}. JSON has a way of its own.",
    ),
    switch("--print-node-name", "node_name", help="Show where it was seen."),
)
quiet = section("Other", switch("-s", "--silent-errors", "silent", help="No warnings, and no news of nodes."))
from_file = section(
    "Other",
    option(
        "--input-file",
        default="",
        metavar="FILE",
        help="Take the flows in a file, as -o jsonpb writes them, in place of a server's; - is standard input.",
    ),
)
