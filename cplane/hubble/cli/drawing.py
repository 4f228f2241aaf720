"""A graph as DOT, Mermaid or JSON. Names are other people's words: none of them ends a string or begins a tag."""

import json
from typing import Final

from cplane.hubble.cli.terminal import escape
from cplane.hubble.graph import Edge, Graph, Node, graph_json

_PORTS_SHOWN: Final = 4
_PLAIN: Final = frozenset(" -_./:,()+=")


def draw(graph: Graph, output: str) -> str:
    """The graph in one of the formats of `-o`."""
    match output:
        case "json":
            return f"{json.dumps(graph_json(graph), indent=2)}\n"
        case "mermaid":
            return _mermaid(graph)
    return _dot(graph)


def _dot(graph: Graph) -> str:
    nodes = {node: f"n{place}" for place, node in enumerate(graph.nodes())}
    lines = ["digraph hubble {", "  rankdir=LR;", '  node [shape=box, style=rounded, fontname="sans-serif"];']
    lines += [f"  {name} [label={_dot_text(*_node_words(node))}];" for node, name in nodes.items()]
    for client, server, edge in graph.edges():
        style = ", color=red, style=dashed" if edge.dropped == edge.flows else ", color=red" if edge.dropped else ""
        lines.append(f"  {nodes[client]} -> {nodes[server]} [label={_dot_text(*_edge_words(edge))}{style}];")
    lines += [f"  label={_dot_text(_lost(graph))};"] if graph.lost else []
    return "".join(f"{line}\n" for line in (*lines, "}"))


def _dot_text(*lines: str) -> str:
    """A string in which nothing is an escape but the ends of lines."""
    quoted = (escape(line).replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(quoted) + '"'


def _mermaid(graph: Graph) -> str:
    nodes = {node: f"n{place}" for place, node in enumerate(graph.nodes())}
    lines = ["flowchart LR"]
    lines += [f'  {name}["{_mermaid_text(*_node_words(node))}"]' for node, name in nodes.items()]
    for client, server, edge in graph.edges():
        arrow = "-.->" if edge.dropped == edge.flows else "-->"
        lines.append(f'  {nodes[client]} {arrow}|"{_mermaid_text(*_edge_words(edge))}"| {nodes[server]}')
    lines += [f"  %% {_lost(graph)}"] if graph.lost else []
    return "".join(f"{line}\n" for line in lines)


def _mermaid_text(*lines: str) -> str:
    """Characters that could mean anything are their numbers."""
    return "<br/>".join("".join(map(_mermaid_character, escape(line))) for line in lines)


def _mermaid_character(character: str) -> str:
    return character if character.isalnum() or character in _PLAIN else f"#{ord(character)};"


def _node_words(node: Node) -> tuple[str, ...]:
    place = f"{node.kind}, {node.cluster}" if node.cluster else node.kind
    return str(node), f"({place})"


def _edge_words(edge: Edge) -> tuple[str, ...]:
    """The ports with the most flows, and how many flows ended how."""
    often = sorted(edge.ports.items(), key=lambda one: (-one[1], one[0]))
    ports = [str(port) for port, _ in often[:_PORTS_SHOWN]]
    ports += [f"{len(often) - _PORTS_SHOWN} more"] if len(often) > _PORTS_SHOWN else []
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(edge.verdicts.items()))
    return (", ".join(ports), counts) if ports else (counts,)


def _lost(graph: Graph) -> str:
    return f"{graph.lost} events were lost and are not in this graph"
