"""Object stores in tests: their kinds, their clients, and a proxy in between."""

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from common.handover.stores import gs, s3
from tools.sandbox.faulty_proxy import Proxy, proxy

SERVERS = {  # by kind of store: the fixture with the variables of its server, and the variable with its address
    "s3": ("s3_server", "AWS_ENDPOINT_URL"),
    "gs": ("fake_gcs", "STORAGE_EMULATOR_HOST"),
}


@dataclass
class Remote:
    """An object store behind a proxy, the variables that point clients at the proxy, and the root of an empty lake."""

    kind: str
    proxy: Proxy
    environment: dict[str, str]
    root: str


@contextlib.contextmanager
def behind_proxy(kind: str, environment: dict[str, str]) -> Iterator[Remote]:
    """Run a proxy of the server that the environment names."""
    variable = SERVERS[kind][1]
    with proxy(environment[variable]) as here:
        yield Remote(kind, here, {**environment, variable: here.url}, f"{kind}://tandem-lake/{uuid.uuid4().hex}")


def forget_clients() -> None:
    """Drop the clients of this process: after a fork, and when the environment names another server."""
    s3.client.cache_clear()
    gs.client.cache_clear()
