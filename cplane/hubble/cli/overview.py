"""`hubble graph` and `hubble top`: what many flows say together. Ours alone."""

from typing import Any

import click

from cplane.hubble.cli.flags import filter_options
from cplane.hubble.cli.options import Command, filters_of, global_options, server_options, settings_of
from cplane.hubble.cli.selectors import from_file, option, quiet, raw_filters, section, selectors, switch
from cplane.hubble.cli.wanted import GRAPHS, Wanted

_graph_format = section(
    "Formatting",
    option(
        "-o",
        "--output",
        type=click.Choice(GRAPHS, case_sensitive=False),
        default="dot",
        show_default=True,
        help="dot is for Graphviz, mermaid for Markdown.",
    ),
)


@click.command(cls=Command)
@selectors
@filter_options
@raw_filters
@_graph_format
@quiet
@from_file
@server_options
@global_options
@click.pass_context
def graph(ctx: click.Context, /, **given: Any) -> None:  # noqa: ANN401  # the fields of Wanted
    """Draw who talks to whom: workloads and services, with ports, numbers of flows, and what became of them.

    Without selectors it is drawn of all flows that there are; with -f, of those until an interrupt.
    """
    from cplane.hubble.cli.graphing import draw_graph

    wanted = Wanted(filters=tuple(filters_of(ctx)), **given)
    draw_graph(settings_of(ctx), wanted)


_once = section(
    "Formatting",
    switch("--once", help="Show it a single time, of the flows that there are; for files it is so anyway."),
)


@click.command(cls=Command)
@selectors
@filter_options
@raw_filters
@_once
@from_file
@server_options
@global_options
@click.pass_context
def top(ctx: click.Context, /, *, once: bool, **given: Any) -> None:  # noqa: ANN401  # the fields of Wanted
    """Show who talks most, what is dropped for which reason and by which policy, and how fast flows come.

    It begins with the last 1000 flows and goes on with those to come. It ends with q or an interrupt.
    """
    from cplane.hubble.cli.topping import show_top

    show_top(settings_of(ctx), Wanted(filters=tuple(filters_of(ctx)), **given), once=once)
