"""A product in Redis or Valkey, also in a cluster: documents as the fields of one hash, a hash for each part's items.

Every command has one key, so a cluster spreads the parts over its nodes without hash tags. Documents are compared and
swapped by a script, which Redis runs alone.
"""

import contextlib
import datetime
import functools
import os
import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import redis
from redis import exceptions
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from common.delivery.json_values import as_document, as_json
from common.delivery.patience import persist, send_all
from common.delivery.redis import reader
from common.delivery.store import VERSIONS, Document, Place
from common.errors import ArgumentError, TaskError

ATTEMPTS = 6  # to connect, within some ten seconds
BUSY = (exceptions.BusyLoadingError, exceptions.ClusterDownError, exceptions.ReadOnlyError, exceptions.TryAgainError)
READ = "return {redis.call('HGET', KEYS[1], ARGV[1]), redis.call('TIME')}"
# ARGV: the new tag; JSON of expected tags by key ('' does not exist); then key and document ('' deletes) alternately.
COMMIT = """
local function tag(key)
    local document = redis.call('HGET', KEYS[1], key)
    return document and cjson.decode(document).tag or ''
end
for i = 3, #ARGV, 2 do
    if tag(ARGV[i]) == ARGV[1] then return 1 end  -- the response to an earlier attempt was lost
end
for key, expected in pairs(cjson.decode(ARGV[2])) do
    if tag(key) ~= expected then return 0 end
end
for i = 3, #ARGV, 2 do
    if ARGV[i + 1] == '' then
        redis.call('HDEL', KEYS[1], ARGV[i])
    else
        redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    end
end
return 1
"""


class Redis:
    """The store of one product; see common.delivery.store.Store."""

    def __init__(self, url: str, name: str, threads: int) -> None:
        self.url, self.name, self.threads = url, name, threads
        self.document_key = f"{name}:documents"

    @classmethod
    def open(cls, url: str, name: str, threads: int) -> "Redis":
        """Open a product at REDIS_URL, which has the password: so `url` is "redis:", as in all environments."""
        if url != "redis:":
            raise ArgumentError(f"The store '{url}' has an address, expected 'redis:'; set the address in REDIS_URL.")
        if not os.environ.get("REDIS_URL"):
            raise ArgumentError("REDIS_URL is not set, expected redis://[USER:PASSWORD@]HOST:PORT[/DATABASE]; set it.")
        return cls(os.environ["REDIS_URL"], name, threads)

    @functools.cached_property
    def client(self) -> Any:
        """A client that retries to connect; of a cluster if the server is part of one."""
        retry = Retry(ExponentialWithJitterBackoff(base=0.1, cap=5), ATTEMPTS)
        try:
            client = redis.Redis.from_url(self.url, retry=retry, max_connections=self.threads + 1)
        except ValueError as error:
            raise ArgumentError(f"REDIS_URL can't be used: {error}; correct it.") from None
        if client.info("cluster").get("cluster_enabled"):
            return redis.RedisCluster.from_url(self.url, retry=retry)
        return client

    @functools.cached_property
    def keeping(self) -> Any:
        """The client, of a server that does not evict keys while memory is short; else ArgumentError."""
        client: Any = self.client
        nodes = [client]
        if isinstance(self.client, redis.RedisCluster):
            nodes = [client.get_redis_connection(node) for node in client.get_primaries()]
        for policy in {self.request(functools.partial(node.info, "memory"))["maxmemory_policy"] for node in nodes}:
            if policy.startswith("allkeys"):
                raise ArgumentError(
                    f"{self.server} evicts keys when its memory is full (maxmemory-policy {policy}), so readers would "
                    "get default rows without notice; set maxmemory-policy to noeviction."
                )
        return client

    @property
    def server(self) -> str:
        """The server's name in messages, without the password."""
        parts = urlsplit(self.url)
        return f"Redis at {parts.hostname}:{parts.port or 6379}"

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Explain errors of Redis: ArgumentError if no retry helps (no credentials, no rights)."""
        try:
            yield
        except (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError) as error:
            raise ArgumentError(
                f"{self.server} refuses these credentials ({error}); correct REDIS_URL, or the rights of its user."
            ) from None
        except (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.RedisClusterException) as error:
            raise TaskError(
                f"{self.server} can't be reached ({error}); check REDIS_URL and the network, then retry."
            ) from None
        except exceptions.OutOfMemoryError:
            raise TaskError(
                f"The memory of {self.server} is full, expected room for one more version of {self.name}; give it more "
                "(maxmemory), or keep replaced versions for fewer days (keep_days), then retry."
            ) from None

    def create(self, units: tuple[int, int] | None) -> list[str]:
        """Check that the server keeps all keys; hashes exist once they have content."""
        with self.explained():
            assert self.keeping
        return []

    def exists(self) -> bool:
        return bool(self.request(lambda: self.client.exists(self.document_key)))

    def read(self, key: str) -> tuple[Document | None, datetime.datetime]:
        content, (seconds, micros) = self.request(lambda: self.client.eval(READ, 1, self.document_key, key))
        now = datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).replace(microsecond=int(micros))
        return as_document(content) if content else None, now

    def versions(self) -> dict[str, Document]:
        found = self.request(lambda: self.client.hgetall(self.document_key))
        names = sorted(key.decode() for key in found if key.startswith(VERSIONS.encode()))
        return {name.removeprefix(VERSIONS): as_document(found[name.encode()]) for name in names}

    def commit(self, writes: Mapping[str, dict[str, Any] | None], expected: Mapping[str, str | None]) -> bool:
        tag = uuid.uuid4().hex
        arguments = [tag, as_json({key: old or "" for key, old in expected.items()})]
        for key, values in writes.items():
            arguments += [key, "" if values is None else as_json({**values, "tag": tag})]
        return bool(self.request(lambda: self.client.eval(COMMIT, 1, self.document_key, *arguments)))

    def put(self, items: list[tuple[Place, bytes]]) -> int:
        def send(waiting: list[tuple[Place, bytes]]) -> tuple[list[tuple[Place, bytes]], str]:
            with self.keeping.pipeline(transaction=False) as pipeline:
                for place, content in waiting:
                    pipeline.hset(self.item_key(place.part), place.key, content)
                results = pipeline.execute(raise_on_error=False)
            failed = [(item, result) for item, result in zip(waiting, results) if isinstance(result, Exception)]
            for _, error in failed:
                if not busy(error):
                    raise error
            return [item for item, _ in failed], busy(failed[0][1]) or "" if failed else ""

        return send_all(self.name, items, send)

    def find(self, places: list[Place]) -> set[str]:
        found = self.each(places, "hexists")
        return {place.key for place, exists in zip(places, found) if exists}

    def get(self, places: list[Place]) -> dict[str, bytes]:
        found = self.each(places, "hget")
        return {place.key: content for place, content in zip(places, found) if content is not None}

    def items(self, part: str) -> Iterator[tuple[str, bytes]]:
        content = self.request(lambda: self.client.hgetall(self.item_key(part)))
        for key in sorted(content):
            yield key.decode(), content[key]

    def expire(self, part: str, at: int) -> int:
        """Delete a part: all of its items are one key, which Redis frees in the background."""
        return self.delete(part)

    def delete(self, part: str) -> int:
        key = self.item_key(part)
        count: int = self.request(lambda: self.client.hlen(key))
        self.request(lambda: self.client.unlink(key))
        return count

    def scan(self, units: float | None) -> Iterator[Place]:
        start = self.item_key("")
        # The iterator's requests are not repeated if the server is busy: call this within `explained`.
        for key in {*self.client.scan_iter(match=f"{start}*/*", count=1000)}:
            for field in self.request(functools.partial(self.client.hkeys, key)):
                yield Place(key.decode().removeprefix(start), field.decode())

    def erase(self, places: list[Place]) -> None:
        self.each(places, "hdel")

    def shown(self, key: str) -> Any:
        return reader.read(self.client, self.name, key)

    def item_key(self, part: str) -> str:
        return f"{self.name}:{part}"

    def each(self, places: list[Place], command: str) -> list[Any]:
        """Return the result of a command for each item."""

        def send() -> list[Any]:
            with self.client.pipeline(transaction=False) as pipeline:
                for place in places:
                    getattr(pipeline, command)(self.item_key(place.part), place.key)
                results: list[Any] = pipeline.execute()
            return results

        found: list[Any] = self.request(send)
        return found

    def request(self, call: Any) -> Any:
        """Return the response of one request, repeated while Redis is busy."""
        return persist(self.name, call, busy)


def busy(error: Exception) -> str | None:
    """Return the reason why the same request may succeed later, None if it won't."""
    if isinstance(error, BUSY):
        return f"answers '{error}'; check the state of its nodes"
    return None
