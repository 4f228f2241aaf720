"""`cplane policy matrix`: who reaches whom."""

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from cplane.cli.manifests import Offline, paths_option, reach_of, scene_of, scene_options
from cplane.cli.matrix_sheet import MARKS, Sheet, mark_of
from cplane.cli.session import emit, fail, outputs

if TYPE_CHECKING:
    from cplane.k8s.matrix import Cell, Party
    from cplane.k8s.ports import Asked


@click.command(cls=Offline)
@paths_option
@click.option(
    "--port",
    "ports",
    multiple=True,
    required=True,
    metavar="PORT/PROTOCOL...",
    help="Traffic: 80/TCP, http/TCP (a container port's name), 8/ICMP.",
)
@click.option("-n", "--namespace", "namespaces", multiple=True, metavar="NAME...", help="Pods of these only.")
@scene_options
@outputs("table", "json", "yaml", "html", text="How to print it; html is one page that needs nothing else.")
def matrix(
    *,
    paths: tuple[str, ...],
    ports: tuple[str, ...],
    namespaces: tuple[str, ...],
    cluster: str,
    enforcement: str,
    audited: tuple[str, ...],
    output: str,
) -> None:
    """Show who reaches whom, by the policies in the files.

    Rows are where traffic comes from, columns where it goes. Pods that obey one policy and look the same to others
    are one row. Every prefix that a policy names is a row too, and so is the rest of the world.
    """
    from cplane.errors import Rejected
    from cplane.k8s.matrix import cells, parties

    asked = [_asked(text) for text in ports]
    scene = scene_of(paths, cluster=cluster, enforcement=enforcement)
    reach = reach_of(scene, audited)
    try:
        rows = parties(scene, namespaces, reach.is_audited)
    except Rejected as error:
        fail(str(error))
    sheets = [Sheet(one, tuple(cells(reach, rows, one))) for one in asked]
    match output:
        case "json" | "yaml":
            emit(output, _plain(rows, sheets), str)
        case "html":
            from cplane.cli.matrix_page import page

            click.echo(page(rows, sheets))
        case _:
            # An empty NO_COLOR counts as none (no-color.org).
            click.echo("\n\n".join(_table(rows, sheets)), color=False if os.environ.get("NO_COLOR") else None)


def _asked(text: str) -> "Asked":
    from cplane.k8s.ports import parse_port
    from cplane.k8s.probes import ICMP_PROTOCOLS, PROTOCOLS, BadProbe

    try:
        found = parse_port(text)
    except BadProbe as error:
        raise click.UsageError(f"--port: {error}") from None
    if found.port is None and PROTOCOLS[found.protocol.upper()] not in ICMP_PROTOCOLS:
        raise click.UsageError(f"--port: {text!r} has no port: write 80/{found.protocol}")
    return found


def _table(rows: "tuple[Party, ...]", sheets: Iterable[Sheet]) -> Iterator[str]:
    from cplane.cli.format import printable

    names = [printable(row.name) for row in rows]
    width = max(map(len, names), default=0)
    digits = len(str(len(rows)))
    seen: dict[str, None] = {}
    for sheet in sheets:
        head = " ".join(str(number).rjust(digits) for number in range(1, len(rows) + 1))
        lines = [f"{printable(str(sheet.asked)).ljust(digits + 1 + width)}  {head}"]
        for row, name in enumerate(names):
            marks = [mark_of(cell) for cell in sheet.cells[row * len(rows) : (row + 1) * len(rows)]]
            seen.update(dict.fromkeys(marks))
            shown = " ".join(" " * (digits - 1) + click.style(MARKS[m].sign, fg=MARKS[m].colour) for m in marks)
            lines.append(f"{str(row + 1).rjust(digits)} {name.ljust(width)}  {shown}")
        yield "\n".join(lines)
    yield "  ".join(
        f"{click.style(mark.sign, fg=mark.colour)} {mark.meaning}" for m, mark in MARKS.items() if m in seen
    )


def _plain(rows: "tuple[Party, ...]", sheets: Iterable[Sheet]) -> dict[str, object]:
    from cplane.cli.policy_answers import side_of

    def cell_of(cell: "Cell") -> dict[str, object]:
        return {
            "from": cell.source.name,
            "to": cell.destination.name,
            "verdict": "MIXED" if cell.mixed else str(cell.answer.verdict),
            "l7": cell.answer.l7,
            "egress": side_of(cell.answer.egress),
            "ingress": side_of(cell.answer.ingress),
        }

    return {
        "parties": [
            {
                "name": row.name,
                "kind": row.kind,
                "members": list(row.members),
                "labels": [str(label) for label in row.ends[0].labels],
            }
            for row in rows
        ],
        "ports": [
            {"port": str(sheet.asked), "cells": [cell_of(cell) for cell in sheet.cells if cell is not None]}
            for sheet in sheets
        ],
    }
