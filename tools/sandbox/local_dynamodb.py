"""Moto's DynamoDB on this machine while a local Airflow runs; its data are lost at the end."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from tools import tables


class OneAtATime(DomainDispatcherApplication):
    """Moto with one request at a time: its tables are dictionaries, which must not grow during a query."""

    turn = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        with self.turn:
            return super().__call__(environ, start_response)


@contextlib.contextmanager
def served(address: str = "127.0.0.1") -> Iterator[str]:
    """Run moto's server during this block; yield its URL."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else one line per request
    app = OneAtATime(create_backend_app)
    server = make_server(address, 0, app, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield "http://{}:{}".format(*server.server_address[:2])
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def running(address: str = "127.0.0.1") -> Iterator[None]:
    """Create the laptop's tables on the server in DYNAMODB_ENDPOINT, else on moto's during this block.

    Sets the variable, and credentials and region for Amazon's client, if they are missing.
    """
    with contextlib.ExitStack() as stack:
        session = boto3.Session()
        if session.get_credentials() is None:
            os.environ.update(AWS_ACCESS_KEY_ID="local", AWS_SECRET_ACCESS_KEY="local")
        if session.region_name is None:
            os.environ["AWS_DEFAULT_REGION"] = "eu-central-1"
        if not os.environ.get("DYNAMODB_ENDPOINT"):
            os.environ["DYNAMODB_ENDPOINT"] = stack.enter_context(served(address))
            stack.callback(os.environ.pop, "DYNAMODB_ENDPOINT")
            tables.LOCAL.parent.mkdir(exist_ok=True)
            tables.LOCAL.write_text(os.environ["DYNAMODB_ENDPOINT"])
            stack.callback(tables.LOCAL.unlink, missing_ok=True)
        for _ in tables.create("laptop"):
            pass
        yield
