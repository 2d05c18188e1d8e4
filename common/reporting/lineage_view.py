"""A lineage as pictures for a wide and a narrow page, and as a nested list."""

from collections import defaultdict
from typing import Any

from common.reporting import charts, lineage_layout, words
from common.reporting.lineage import Lineage, Node

Row = dict[str, Any]


def content(lineage: Lineage | None) -> Row | None:
    """Return the pictures and the tree of a lineage, None if there are no nodes."""
    if lineage is None or not lineage.nodes:
        return None
    points, edges = lineage_layout.layout(lineage)
    nodes = [
        {"x": points[node.id][0], "row": points[node.id][1], "kind": node.kind, "label": node.label, "note": note(node)}
        for node in lineage.nodes
    ]
    paths = [
        {"path": number, "step": step, "x": x, "row": row, "ends": ends(step, len(through))}
        for number, (_, through) in enumerate(edges)
        for step, (x, row) in enumerate(through)
    ]
    rows = 1 + max(row for _, row in points.values())
    return {
        "wide": charts.graph(nodes, paths, 900, rows),
        "narrow": charts.graph(nodes, paths, 340, rows),
        "tree": tree(lineage),
        "nodes": len(lineage.nodes),
    }


def ends(step: int, steps: int) -> tuple[int, ...]:
    """Return the heights within its row at which a path has points: below a box, across a row, above a box."""
    if step == 0:
        return (charts.BOX,)
    return (0,) if step == steps - 1 else (0, charts.BOX)


def note(node: Node) -> str:
    """Return the second line of a node in the picture: its number of days, files or rows, and its last day."""
    if node.last:
        return (
            f"{words.counted(node.count, node.unit.removesuffix('s'))} to {node.last}" if node.count > 1 else node.last
        )
    if node.rows is not None:
        return words.counted(node.rows, "row")
    return words.counted(node.count, node.unit.removesuffix("s")) if node.unit else node.kind


def tree(lineage: Lineage) -> list[Row]:
    """Return the nodes as nested lists from products down; a node's own sources stand where it is first named."""
    nodes = {node.id: node for node in lineage.nodes}
    sources: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for edge in lineage.edges:
        if edge.source in nodes and edge.target in nodes:
            sources[edge.target].append((edge.source, edge.role))
    below = {source for each in sources.values() for source, _ in each}
    seen: set[str] = set()

    def branch(name: str, role: str) -> Row:
        again = name in seen
        seen.add(name)
        children = [] if again else [branch(*source) for source in sources[name]]
        return {"node": nodes[name], "role": role, "again": again and bool(sources[name]), "children": children}

    return [branch(node.id, "") for node in lineage.nodes if node.id not in below]
