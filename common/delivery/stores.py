"""The choice of a store by its URL; only its own client is imported."""

from common.delivery.store import Store
from common.errors import ArgumentError
from common.protocol import nearest

KINDS = ("dynamodb", "bigtable", "redis")


def open_store(url: str, name: str, threads: int = 1) -> Store:
    """Return the store of a product, for so many threads: at `dynamodb:`, `bigtable://PROJECT/INSTANCE` or `redis:`."""
    kind = url.partition(":")[0]
    if kind == "dynamodb":
        from common.delivery.dynamodb.store import DynamoDB

        return DynamoDB.open(url, name, threads)
    if kind == "bigtable":
        from common.delivery.bigtable.store import Bigtable

        return Bigtable.open(url, name, threads)
    if kind == "redis":
        from common.delivery.redis.store import Redis

        return Redis.open(url, name, threads)
    raise ArgumentError(
        f"The store '{url}' is unknown, expected dynamodb:, bigtable://PROJECT/INSTANCE or redis:"
        f"{nearest(kind, KINDS)}."
    )
