"""The lineage of results: from a task's manifest through its parents to datasets, ingestions and deliveries."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import msgspec

from common import protocol
from common.errors import InputError
from common.handover import manifest, storage
from common.handover.manifest import Manifest
from common.ingestion import ledger
from common.reporting.words import counted

MAX_MANIFESTS = 1_000  # read for one lineage, the newest days first; the others are counted
THREADS = 32  # as many as connections to an object store


class Node(msgspec.Struct, omit_defaults=True):
    """A product, a task with all its shards or runs, a dataset with all its days, or the deliveries of a folder.

    It stands for `count` manifests, or files of deliveries. Of these, `changed` were replaced since they were read,
    `missing` are gone, and `unread` were left out.
    """

    id: str
    kind: str  # product, task, dataset, deliveries
    label: str
    manifest: str | None = None  # its path in the lake, of several the first; of deliveries their folder
    digest: str | None = None  # of that manifest, as its reader recorded it
    rows: int | None = None
    time: datetime | None = None  # of the newest publication
    count: int = 1
    unit: str = ""  # of the count: runs, shards, days or files
    changed: int = 0
    missing: int = 0
    unread: int = 0
    first: str | None = None  # day of a dataset, or day of arrival
    last: str | None = None


class Edge(msgspec.Struct, omit_defaults=True):
    """A step of a lineage: `target` was made from `source`, both IDs of nodes."""

    source: str
    target: str
    role: str = ""  # of the input


class Lineage(msgspec.Struct, omit_defaults=True):
    """A graph without circles; nodes in the order from products back to deliveries."""

    nodes: list[Node]
    edges: list[Edge]


class Place(NamedTuple):
    """The place of a manifest in the lake: its node's ID and kind, and the part that differs within the node."""

    node: str
    kind: str
    part: str  # the day of a dataset, the run and the shard of a task


class Link(NamedTuple):
    """A manifest that was made from another one."""

    source: str
    target: str
    role: str


@dataclass
class Walk:
    """The manifests that a walk from results to their sources has found, by URI; None: gone."""

    lake: str
    found: dict[str, Manifest | None] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    recorded: dict[str, set[str]] = field(default_factory=dict)  # digests, as readers recorded them
    links: list[Link] = field(default_factory=list)

    def manifests(self, uris: Iterable[str]) -> list[Manifest]:
        """Return those of some manifests that were found."""
        return [found for uri in uris if (found := self.found.get(uri))]


def trace_run(lake: str, dag_id: str, run_id: str, limit: int = MAX_MANIFESTS) -> Lineage:
    """Return the lineage of all results of a run: products, datasets, and hand-overs that no task of it read."""
    folder = protocol.task_key(lake, dag_id, run_id, protocol.REPORT_TASK).rpartition("/")[0]
    return trace(lake, results(lake, folder), limit)


def trace(lake: str, uris: list[str], limit: int = MAX_MANIFESTS) -> Lineage:
    """Return the lineage of the results at some manifests' URIs; a manifest that is gone counts as missing."""
    return graph(walk(lake, uris, limit), uris)


def describe(node: Node) -> str:
    """Return one line about a node: numbers, days, and its manifests that are not as they were read."""
    words = [f"{node.count:,} {node.unit if node.count > 1 else node.unit.removesuffix('s')}"] if node.unit else []
    if node.first and node.last:
        words.append(node.first if node.first == node.last else f"{node.first} to {node.last}")
    words += [counted(node.rows, "row")] if node.rows is not None else []
    words += [f"{node.time:%Y-%m-%d %H:%M}"] if node.time else []
    for number, state in (
        (node.changed, "changed since"),
        (node.missing, "deleted since" if node.kind != "deliveries" else "gone"),
        (node.unread, "not looked at"),
    ):
        words += [f"{number:,} {state}" if node.count > 1 else state] if number else []
    return ", ".join(words)


def results(lake: str, folder: str) -> list[str]:
    """Return the manifests of the results of a run's folder: partitions that it published, tasks that no other read."""
    keys = [f"{folder}/{name}" for name in storage.folders(folder) if name != protocol.REPORT_TASK]
    uris = [protocol.manifest_uri(f"{key}{shard}") for key in keys for shard in ("", "/map-0")]
    found = [each for each in storage.in_parallel(manifest.load_or_none, uris, THREADS) if each]
    shards = [
        protocol.manifest_uri(f"{each.uri.rpartition('/map-0/')[0]}/map-{index}")
        for each in found
        for index in range(1, each.document["task"]["map_count"] or 1)
    ]
    found += [each for each in storage.in_parallel(manifest.load_or_none, shards, THREADS) if each]
    read = {parent["uri"] for each in found for parent in each.document.get("parents", ())}
    ends = sorted((each for each in found if each.uri not in read), key=lambda each: each.uri)
    partitions = [
        protocol.manifest_uri(f"{lake}/{output['dataset']}/{name}")
        for each in ends
        for output in each.document["outputs"].values()
        for name in output.get("partitions", ())
    ]
    return [*partitions, *(each.uri for each in ends)]


def walk(lake: str, uris: list[str], limit: int = MAX_MANIFESTS) -> Walk:
    """Read manifests and all that they were made from, one generation after the other."""
    result = Walk(lake)
    generation = dict.fromkeys(uris)
    while generation:
        inside = [uri for uri in generation if uri.startswith(f"{lake}/")]
        newest = sorted(inside, reverse=True)[: limit - len(result.found)]
        result.found |= dict(zip(newest, storage.in_parallel(load_or_none, newest, THREADS)))
        result.unread |= generation.keys() - result.found.keys()
        following: dict[str, None] = {}
        for uri in generation:
            if found := result.found.get(uri):
                result.links += links(result, found, following)
        generation = {uri: None for uri in following if uri not in result.found and uri not in result.unread}
    return result


def load_or_none(uri: str) -> Manifest | None:
    """Return the manifest at a URI; None if it is gone or not a manifest of this release."""
    try:
        return manifest.load_or_none(uri)
    except (InputError, ValueError, KeyError, TypeError, AttributeError):
        return None


def links(walked: Walk, child: Manifest, following: dict[str, None]) -> Iterator[Link]:
    """Yield the links from a manifest to its sources, and note these: its parents, or a partition's publisher."""
    if place(walked.lake, child.uri).kind == "dataset":
        task = child.document["task"]
        names = (task["dag_id"], task["run_id"], task["task_id"], task.get("map_index"))
        publisher = protocol.manifest_uri(protocol.task_key(walked.lake, *names))
        following[publisher] = None
        yield Link(publisher, child.uri, "")
        return
    for parent in child.document.get("parents", ()):
        walked.recorded.setdefault(parent["uri"], set()).add(parent["digest"])
        following[parent["uri"]] = None
        yield Link(parent["uri"], child.uri, parent["role"])


def place(lake: str, uri: str) -> Place:
    """Return the place of a manifest; all shards and runs of a task share a node, and all days of a dataset."""
    folder = uri.removeprefix(f"{lake}/").rpartition("/")[0]
    parts = folder.split("/")
    if parts[0] == "intermediate" and len(parts) >= 4:
        return Place(f"{parts[1]}/{parts[3]}", "task", "/".join([parts[2], *parts[4:]]))
    dataset, _, name = folder.rpartition("/")
    return Place(dataset, "dataset", name.removeprefix("date="))


def graph(walked: Walk, starts: list[str]) -> Lineage:
    """Return the graph of a walk, with one node for all manifests of a task or dataset."""
    uris: dict[str, list[str]] = {}
    for uri in dict.fromkeys([*starts, *(link.source for link in walked.links)]):
        uris.setdefault(place(walked.lake, uri).node, []).append(uri)
    nodes, edges = products(walked, starts)
    nodes += [node_of(walked, members) for members in uris.values()]
    for link in walked.links:
        add_edge(edges, place(walked.lake, link.source).node, place(walked.lake, link.target).node, link.role)
    for name, members in sorted(uris.items(), key=lambda each: place(walked.lake, each[1][0]).kind):  # datasets first
        target, paths = delivered(walked, name, members, set(starts), edges)
        for node in nodes_of_deliveries(paths):
            nodes += [node] if all(node.id != known.id for known in nodes) else []
            add_edge(edges, node.id, target)
    return Lineage(nodes, edges)


def products(walked: Walk, starts: list[str]) -> tuple[list[Node], list[Edge]]:
    """Return the products that tasks published, which are those without an output that name a version of a table."""
    nodes, edges = [], []
    for each in walked.manifests(starts):
        metrics = each.document.get("metrics", {})
        if not each.document["outputs"] and "table" in metrics and "version" in metrics:
            name = f"{metrics['table']} {metrics['version']}"
            label = f"{metrics.get('product', metrics['table']).partition('@')[0]} {metrics['version']}"
            nodes.append(Node(name, "product", label, rows=metrics.get("rows"), time=ended(each)))
            edges.append(Edge(place(walked.lake, each.uri).node, name))
    return nodes, edges


def node_of(walked: Walk, uris: list[str]) -> Node:
    """Return the node of all manifests of a task or dataset."""
    places = sorted((place(walked.lake, uri), uri) for uri in uris)
    found = walked.manifests(uris)
    (name, kind, _), first = places[0]
    recorded = sorted(walked.recorded.get(first, ()))
    of_first = walked.found.get(first)
    days = [each.part for each, _ in places if kind == "dataset" and each.part != "all"]
    runs = {each.part.partition("/")[0] for each, _ in places}
    unit = "days" if days else ""
    if kind == "task" and len(uris) > 1:
        unit = "runs" if len(runs) > 1 else "shards"
    return Node(
        name,
        kind,
        name if kind == "dataset" else name.rpartition("/")[2],
        manifest=first.removeprefix(f"{walked.lake}/"),
        digest=recorded[0] if recorded else of_first.digest if of_first else None,
        rows=sum(map(rows_of, found)) if found else None,
        time=max(filter(None, map(ended, found)), default=None),
        count=len(runs) if unit == "runs" else len(uris),
        unit=unit,
        changed=sum(bool(walked.recorded.get(each.uri, {each.digest}) - {each.digest}) for each in found),
        missing=sum(uri in walked.found and walked.found[uri] is None for uri in uris),
        unread=sum(uri in walked.unread for uri in uris),
        first=days[0] if days else None,
        last=days[-1] if days else None,
    )


def rows_of(each: Manifest) -> int:
    """Return the rows in the outputs of a manifest, without those in quarantine; of a publication, its rows."""
    outputs = each.document["outputs"].values()
    kept = [output for output in outputs if not str(output.get("contract")).startswith("quarantine@")]
    return sum(output["rows"] for output in kept) if kept else int(each.document.get("metrics", {}).get("rows", 0))


def ended(each: Manifest) -> datetime | None:
    """Return the time of a publication."""
    moment = each.document.get("ended")
    return datetime.fromisoformat(moment) if moment else None


def add_edge(edges: list[Edge], source: str, target: str, role: str = "") -> None:
    """Add an edge, unless it is known or closes a circle, as that from the former state of a dataset does."""
    if source == target or any((edge.source, edge.target) == (source, target) for edge in edges):
        return
    reached, found = [target], {target}
    while reached:
        from_here = reached.pop()
        found.add(from_here)
        reached += [edge.target for edge in edges if edge.source == from_here and edge.target not in found]
    if source not in found:
        edges.append(Edge(source, target, role))


# Deliveries


def delivered(walked: Walk, name: str, members: list[str], starts: set[str], edges: list[Edge]) -> tuple[str, set[str]]:
    """Return the node that deliveries lead to, and their paths: those that tasks took, or all that a dataset is of.

    The ledger has those of a dataset. Its days of arrival select them, where the dataset records them.
    """
    found = walked.manifests(members)
    if place(walked.lake, members[0]).kind == "task":
        return name, {path for each in found for path in each.document.get("deliveries", ())}
    read = [each for each in found if each.uri not in starts]
    if not read:
        return name, set()
    days = {day for each in read for day in manifest.rows_by_arrival(each)}
    publisher = next((edge.source for edge in edges if edge.target == name), name)
    return publisher, ingested(walked.lake, name, days)


def ingested(lake: str, dataset: str, days: set[str]) -> set[str]:
    """Return the paths of the raw files that a dataset has ingested: of some days of arrival, without any of all."""
    documents = storage.files(f"{lake}/{dataset}/ingested")
    months = {day[:7] for day in days}
    uris = [each.uri for each in documents if not days or each.uri.rpartition("/")[2].removesuffix(".json") in months]
    entries = storage.in_parallel(ledger.read, uris, THREADS)
    return {path for entry, _ in entries for path in entry if not days or protocol.arrival_day(path) in days}


def nodes_of_deliveries(paths: set[str]) -> list[Node]:
    """Return a node for each folder with days of arrival."""
    folders: dict[str, list[str]] = {}
    for path in sorted(paths):
        folder = path.partition("/arrival=")[0] if "/arrival=" in path else path.rpartition("/")[0]
        folders.setdefault(folder, []).append(path)
    nodes = []
    for folder, files in folders.items():
        days = sorted(filter(None, map(protocol.arrival_day, files)))
        first, last = (days[0], days[-1]) if days else (None, None)
        count = len(files)
        nodes.append(Node(folder, "deliveries", folder, folder, count=count, unit="files", first=first, last=last))
    return nodes
