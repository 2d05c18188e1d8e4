"""Print the lineage of a product's live version, back to the deliveries; with a user, also the rows of that user.

It reads manifests. A version that no table has is the newest published one by the records of runs.
"""

import argparse
import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.text import Text
from rich.tree import Tree

from common.delivery.store import Store
from common.delivery.versions import pointer
from common.errors import ArgumentError, InputError
from common.handover import manifest, storage
from common.protocol import encode, nearest
from common.reporting import history
from common.reporting.lineage import Lineage, Node, describe, graph, results, walk
from tools import environment
from tools.command_line import exit_on_task_error
from tools.run import lineage_of_user
from tools.tables import lacks_local_server, open_product, products, use_local_server

MAX_MANIFESTS = 20_000
RECORDS = 20  # of each pipeline, among which the newest publication is looked for
console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)


@dataclass(frozen=True)
class Version:
    """A published version of a product: the folder of the run that made it, and its store if that is known."""

    name: str
    folder: str
    made_by: str | None = None  # a manifest of the task that made its rows
    store: Store | None = None


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--product", required=True, metavar="NAME", help=f"one of {', '.join(products())}")
    parser.add_argument("--user", metavar="ID", help="also show the rows of this user")
    environment.add_options(parser)
    arguments = parser.parse_args()
    if arguments.product not in products():
        raise ArgumentError(f"There is no product '{arguments.product}'{nearest(arguments.product, products())}.")
    if arguments.user == "":
        raise ArgumentError("The user ID is empty, expected USER=ID, or no USER.")
    settings = environment.load(arguments.environment)
    show(environment.resolve_lake(settings, arguments.lake), settings, arguments.product, arguments.user)


def show(lake: str, settings: environment.Settings, product: str, user: str | None) -> None:
    """Print the lineage of a product, and the rows of a user."""
    version = live_version(lake, settings, product) or newest_version(lake, product)
    starts = starts_of(lake, version)
    with console.status("reading manifests"):
        walked = walk(lake, starts, MAX_MANIFESTS)
    print_tree(graph(walked, starts), f"{product} {version.name}")
    if user is not None:
        lineage_of_user.show(walked, user, version.store, product, console)


def live_version(lake: str, settings: environment.Settings, product: str) -> Version | None:
    """Return the version that frontends read; None if nothing was published, or if a laptop's DynamoDB is stopped."""
    if lacks_local_server(settings.name):
        console.print("The laptop's DynamoDB does not run; this is the newest version by the records of runs.")
        return None
    use_local_server(settings.name)
    store = open_product(settings["delivery"], product)
    with store.explained():
        live = pointer(store)
    if live is None:
        return None
    uri = live.values["manifest"]
    if not uri.startswith(f"{lake}/intermediate/"):
        raise InputError(f"The live version of {store.name} was made by {uri}, which is not in {lake}; give its lake.")
    return Version(live.values["version"], folder_of_run(lake, uri), uri, store)


def newest_version(lake: str, product: str) -> Version:
    """Return the newest published version of a product by the records of runs; InputError if they know none."""
    found = [
        (record.run_after, published.version, record)
        for _, record in history.read_all(lake, RECORDS)
        for published in record.published
        if published.product.partition("@")[0] == product and published.version
    ]
    if not found:
        raise InputError(f"No run in {lake} has published {product}; run its pipeline, or correct LAKE or ENV.")
    _, name, record = max(found, key=lambda each: each[:2])
    return Version(name, f"{lake}/intermediate/{encode(record.dag)}/{encode(record.run)}")


def folder_of_run(lake: str, uri: str) -> str:
    """Return the folder of the run that a manifest belongs to."""
    return "/".join([f"{lake}/intermediate", *uri.removeprefix(f"{lake}/intermediate/").split("/")[:2]])


def starts_of(lake: str, version: Version) -> list[str]:
    """Return the manifest of the task that published a version; if it is gone, those of the task that made its rows."""
    for uri in results(lake, version.folder):
        found = manifest.load_or_none(uri)
        if found and found.document.get("metrics", {}).get("version") == version.name:
            return [uri]
    if version.made_by is None:
        raise InputError(f"{version.folder} has no manifest of version {version.name}; retention has deleted the run.")
    task, _, shard = version.made_by.removesuffix("/manifest.json").rpartition("/")
    shards = [name for name in storage.folders(task) if name.startswith("map-")] if shard.startswith("map-") else []
    return [f"{task}/{name}/manifest.json" for name in shards] or [version.made_by]


def print_tree(found: Lineage, title: str) -> None:
    """Print a lineage as a tree; what several tasks read is printed in full where it comes first."""
    known = {node.id: node for node in found.nodes}
    sources: dict[str, list[str]] = {}
    for edge in found.edges:
        sources.setdefault(edge.target, []).append(edge.source)
    tops = [node for node in found.nodes if all(edge.source != node.id for edge in found.edges)]
    printed: set[str] = set()

    def add(branch: Tree, node: Node) -> None:
        if node.id in printed:
            branch.add(f"{escape(node.label)} [dim](above)[/]")
            return
        printed.add(node.id)
        child = branch.add(lines_of(node))
        for source in sources.get(node.id, ()):
            add(child, known[source])

    tree = Tree(f"[bold]{escape(title)}[/]")
    for top in tops:
        if top.kind == "product":
            for source in sources.get(top.id, ()):
                add(tree, known[source])
        else:
            add(tree, top)
    console.print(tree)


def lines_of(node: Node) -> Group:
    """Return the lines about a node: its label and numbers, then its manifest and the digest by which it was read."""
    first = Text.assemble((node.label, "bold"), f"  {describe(node)}")
    details: list[Any] = [Text(f"{node.manifest}", "dim", overflow="fold")] if node.kind != "deliveries" else []
    details += [Text(node.digest, "dim", overflow="fold")] if node.digest else []
    return Group(first, *details)


if __name__ == "__main__":
    main()
