"""Places of a lineage's nodes in rows, products above and deliveries below, and the paths of its edges."""

from collections import defaultdict
from itertools import pairwise
from statistics import fmean

from common.reporting.lineage import Edge, Lineage

SWEEPS = 6
Point = tuple[float, int]  # position from 0 to 1 in a row, number of the row


def layout(lineage: Lineage) -> tuple[dict[str, Point], list[tuple[Edge, list[Point]]]]:
    """Return the points of nodes by ID, and the edges with the points that their paths go through.

    A node is below all that was made from it; an edge that passes rows gets a point in each of them. Rows are ordered
    by the mean position of their neighbours (Sugiyama et al. 1981), so that few edges cross.
    """
    known = {node.id for node in lineage.nodes}
    edges = [edge for edge in lineage.edges if edge.source in known and edge.target in known]
    rows = rows_of([node.id for node in lineage.nodes], edges)
    paths = {number: through(number, edge, rows) for number, edge in enumerate(edges)}
    levels: dict[int, list[str]] = defaultdict(list)
    for name, row in [*rows.items(), *(each for path in paths.values() for each in path[1:-1])]:
        levels[row].append(name)
    neighbours: dict[str, set[str]] = defaultdict(set)
    for path in paths.values():
        for (above, _), (below, _) in pairwise(path):
            neighbours[above].add(below)
            neighbours[below].add(above)
    place = ordered(levels, neighbours)
    points = {name: (place[name], row) for row, names in levels.items() for name in names}
    return (
        {name: points[name] for name in rows},
        [(edge, [points[name] for name, _ in paths[number]]) for number, edge in enumerate(edges)],
    )


def rows_of(nodes: list[str], edges: list[Edge]) -> dict[str, int]:
    """Return the row of each node: one below the lowest node that was made from it."""
    rows = dict.fromkeys(nodes, 0)
    for _ in nodes:  # a path has at most so many steps
        moved = False
        for edge in edges:
            if rows[edge.source] <= rows[edge.target]:
                rows[edge.source], moved = rows[edge.target] + 1, True
        if not moved:
            break
    return rows


def through(number: int, edge: Edge, rows: dict[str, int]) -> list[tuple[str, int]]:
    """Return the names and rows that an edge goes through, from its target down to its source."""
    between = range(rows[edge.target] + 1, rows[edge.source])
    return [
        (edge.target, rows[edge.target]),
        *((f"\0{number} {row}", row) for row in between),
        (edge.source, rows[edge.source]),
    ]


def ordered(levels: dict[int, list[str]], neighbours: dict[str, set[str]]) -> dict[str, float]:
    """Return the position from 0 to 1 of each name in its row, after sweeps down and up."""
    place: dict[str, float] = {}
    for names in levels.values():
        place |= {name: (position + 0.5) / len(names) for position, name in enumerate(names)}
    for sweep in range(SWEEPS):
        for row in sorted(levels, reverse=sweep % 2 == 1):
            beside = -1 if sweep % 2 == 0 else 1
            near = set(levels.get(row + beside, []))
            means = {
                name: fmean(found)
                if (found := [place[each] for each in neighbours[name] if each in near])
                else place[name]
                for name in levels[row]
            }
            levels[row].sort(key=means.__getitem__)
            place |= {name: (position + 0.5) / len(levels[row]) for position, name in enumerate(levels[row])}
    return place
