"""Delete the items of some people from products by user, in all versions, expired ones too."""

from collections.abc import Iterator, Mapping
from typing import Any

from common import contracts
from common.delivery.store import Place, Store
from common.ingestion.suppression import People
from tools.lake.forget_content import Named
from tools.lake.forget_requests import Requests
from tools.tables import ROOT, open_product

THREADS = 4


def personal_stores(section: Mapping[str, Any]) -> Iterator[Store]:
    """Yield the existing stores, by [delivery] of an environment, of products whose items have user IDs as keys."""
    files = (ROOT / "common" / "contracts").glob("*.toml")
    products = [(file.stem.partition("@")[0], contracts.load(file.stem).product) for file in files]
    for name in sorted({name for name, product in products if product and product.key == "user_id"}):
        store = open_product(section, name, THREADS)
        with store.explained():
            if store.exists():
                yield store


def erase(store: Store, people: People, requests: Requests, units: float | None) -> tuple[int, int]:
    """Delete the items of some people; return the number of items read and deleted.

    The whole store is read, to include versions that are not listed any more. One with reserved capacity is read at
    half its read units, so that frontends keep the other half.
    """
    seen, found = 0, list[Place]()
    by_version: dict[str, Named] = {}
    for place in store.scan(units):
        seen += 1
        if owner := people.find(place.key):
            found.append(place)
            by_version.setdefault(place.part.rpartition("/")[0], Named()).update([owner])
    for version, named in by_version.items():
        requests.record(f"tables/{store.name}/{version}", named)
    requests.save()
    store.erase(found)
    return seen, len(found)
