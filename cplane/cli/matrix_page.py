"""The matrix as one HTML page that needs nothing else: no network, no other file."""

import json
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Final

from cplane.cli.format import printable
from cplane.cli.matrix_sheet import MARKS, Sheet, mark_of
from cplane.domain.policy.explanation import Explanation

if TYPE_CHECKING:
    from cplane.k8s.matrix import Cell, Party

_MEMBERS_MAX: Final = 20  # pods that a tooltip names
_GUARD: Final = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'\">"
)
_STYLE: Final = """
:root { color-scheme: light dark; --back: #fbfbfc; --front: #1c2430; --quiet: #68737f; --line: #e2e6ea;
  --card: #fff; --hover: #eef3f8; --allowed: #1f8a4c; --denied: #c8372d; --proxy: #0b7fab; --mixed: #a87400;
  --audit: #9a3fb5; --none: #b8c0c8; }
@media (prefers-color-scheme: dark) { :root { --back: #14181d; --front: #e4e8ec; --quiet: #98a3ae; --line: #2b323a;
  --card: #1b2027; --hover: #242b34; --allowed: #4cc38a; --denied: #f2746b; --proxy: #4fb8e0; --mixed: #e0b040;
  --audit: #d08be6; --none: #4a535d; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1.5rem 2rem 3rem; background: var(--back); color: var(--front);
  font: 14px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.35rem; margin: 0 0 .25rem; font-weight: 650; }
h2 { font-size: 1rem; margin: 2rem 0 .75rem; font-variant-numeric: tabular-nums; }
h2 small { color: var(--quiet); font-weight: 400; margin-left: .75rem; }
p { margin: .25rem 0; color: var(--quiet); }
.legend { display: flex; flex-wrap: wrap; gap: .35rem 1.25rem; margin: .9rem 0; padding: 0; list-style: none; }
.legend li, .legend label { display: flex; align-items: center; gap: .4rem; }
.scroll { overflow: auto; max-height: 80vh; border: 1px solid var(--line); border-radius: 8px; background: var(--card);
  width: fit-content; max-width: 100%; }
table { border-collapse: separate; border-spacing: 0; }
th { font-weight: 500; text-align: left; white-space: nowrap; background: var(--card); }
thead th { position: sticky; top: 0; z-index: 2; vertical-align: bottom; padding: .6rem .2rem; height: 1px; }
thead th span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 15rem; overflow: hidden;
  text-overflow: ellipsis; }
thead th:first-child { left: 0; z-index: 3; color: var(--quiet); font-weight: 400; padding: .6rem .9rem; }
tbody th { position: sticky; left: 0; z-index: 1; padding: .15rem .9rem; border-right: 1px solid var(--line); }
tbody tr:hover > * { background: var(--hover); }
td { padding: 0; }
td button { all: unset; display: block; width: 1.9rem; height: 1.65rem; line-height: 1.65rem; margin: 1px;
  text-align: center; cursor: pointer; font-weight: 650; border-radius: 4px;
  background: color-mix(in srgb, currentColor 9%, transparent); }
td button:hover, td button:focus-visible { outline: 2px solid currentColor; outline-offset: -3px; }
tr.apart > * { border-top: 1px solid var(--line); }
.allowed { color: var(--allowed); } .denied { color: var(--denied); } .proxy { color: var(--proxy); }
.mixed { color: var(--mixed); } .audit { color: var(--audit); }
.none { color: var(--none); }
td.none { text-align: center; }
dialog { border: 1px solid var(--line); border-radius: 10px; background: var(--card); color: var(--front);
  max-width: min(46rem, 92vw); padding: 1.25rem 1.5rem; box-shadow: 0 12px 40px #0004; }
dialog::backdrop { background: #0005; }
dialog h3 { margin: 0 0 .75rem; font-size: 1.05rem; overflow-wrap: anywhere; }
dialog dt { color: var(--quiet); margin-top: .75rem; }
dialog dd { margin: .1rem 0 0; overflow-wrap: anywhere; }
dialog code { display: block; font: 12.5px/1.5 ui-monospace, monospace; margin-top: .35rem; padding: .4rem .6rem;
  background: var(--hover); border-radius: 5px; }
dialog form { margin-top: 1rem; text-align: right; }
dialog form button { font: inherit; padding: .3rem .9rem; }
"""
_SCRIPT: Final = """
const data = JSON.parse(document.getElementById("data").textContent);
const box = document.querySelector("dialog");
const put = (parent, tag, text, kind) => {
  const made = parent.appendChild(document.createElement(tag));
  made.textContent = text;
  if (kind) made.className = kind;
};
document.addEventListener("click", event => {
  const cell = event.target.closest("td button");
  if (!cell) return;
  const [row, column, egress, ingress] = cell.value.split(" ").map(Number);
  const title = box.querySelector("h3"), list = box.querySelector("dl");
  title.textContent = `${data.parties[row]} → ${data.parties[column]}, ${cell.closest("section").dataset.port}`;
  list.replaceChildren();
  for (const [name, side] of [["egress of the source", egress], ["ingress of the destination", ingress]]) {
    const told = data.sides[side];
    put(list, "dt", name);
    put(list, "dd", `${told.verdict}: ${told.reason}`, told.verdict.toLowerCase());
    for (const rule of told.rules) put(list, "code", rule);
  }
  box.showModal();
});
"""


def page(rows: "tuple[Party, ...]", sheets: Iterable[Sheet]) -> str:
    """The page. What manifests say is text in it and nothing else."""
    sides = _Sides()
    sections = "".join(_section(rows, sheet, sides) for sheet in sheets)
    legend = "".join(f'<li><b class="{name}">{mark.sign}</b>{mark.meaning}</li>' for name, mark in MARKS.items())
    data = {"parties": [printable(row.name) for row in rows], "sides": sides.all}
    # In a script element only `<` could end it or begin a comment.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{_GUARD}'
        '<meta name="viewport" content="width=device-width"><title>Who reaches whom</title>'
        f"<style>{_STYLE}</style></head><body><h1>Who reaches whom</h1>"
        "<p>From a row to a column. Choose a cell to see why.</p>"
        f'<ul class="legend">{legend}</ul>{sections}'
        '<dialog><h3></h3><dl></dl><form method="dialog"><button>Close</button></form></dialog>'
        f'<script type="application/json" id="data">{text}</script><script>{_SCRIPT}</script></body></html>'
    )


class _Sides:
    """Explanations, each once, by their number."""

    def __init__(self) -> None:
        self.all: list[dict[str, object]] = []
        self._numbers: dict[Explanation, int] = {}

    def number(self, one: Explanation) -> int:
        """The number of an explanation, which is kept from now on."""
        found = self._numbers.setdefault(one, len(self.all))
        if found == len(self.all):
            rules = [printable(f"{hit} ({hit.selector})") for hit in one.rules]
            self.all.append({"verdict": str(one.verdict), "reason": printable(one.reason), "rules": rules})
        return found


def _section(rows: "tuple[Party, ...]", sheet: Sheet, sides: _Sides) -> str:
    port = escape(printable(str(sheet.asked)))
    heads = "".join(f'<th scope="col" title="{_members(row)}"><span>{_name(row)}</span></th>' for row in rows)
    body = []
    kind = rows[0].kind if rows else ""
    for number, row in enumerate(rows):
        cells = sheet.cells[number * len(rows) : (number + 1) * len(rows)]
        apart = ' class="apart"' if row.kind != kind else ""
        kind = row.kind
        shown = "".join(_cell(cell, number, column, sides) for column, cell in enumerate(cells))
        body.append(f'<tr{apart}><th scope="row" title="{_members(row)}">{_name(row)}</th>{shown}</tr>')
    judged = [cell for cell in sheet.cells if cell is not None]
    denied = sum(1 for cell in judged if mark_of(cell) == "denied")
    return (
        f'<section data-port="{port}"><h2>{port}<small>{denied} of {len(judged)} ways are denied</small></h2>'
        f'<div class="scroll"><table><thead><tr><th>from \\ to</th>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div></section>"
    )


def _cell(cell: "Cell | None", row: int, column: int, sides: _Sides) -> str:
    mark = mark_of(cell)
    if cell is None:
        return f'<td class="none">{MARKS[mark].sign}</td>'
    told = f"{row} {column} {sides.number(cell.answer.egress)} {sides.number(cell.answer.ingress)}"
    label = escape(printable(f"{cell.source.name} to {cell.destination.name}: {MARKS[mark].meaning}"))
    return f'<td><button class="{mark}" value="{told}" title="{label}">{MARKS[mark].sign}</button></td>'


def _name(row: "Party") -> str:
    return escape(printable(row.name))


def _members(row: "Party") -> str:
    return escape(printable(", ".join(row.members[:_MEMBERS_MAX])))
