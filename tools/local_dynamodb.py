"""A DynamoDB on this machine, moto's, for as long as a local Airflow runs; its data are gone with it."""

import contextlib
import logging
import os
from collections.abc import Iterator

import boto3
from moto.server import ThreadedMotoServer

from tools import tables


@contextlib.contextmanager
def running(address: str = "127.0.0.1") -> Iterator[None]:
    """Serve the laptop's tables at DYNAMODB_ENDPOINT if that names a server, else at moto's, for this block.

    Sets the variable, and the credentials and region that Amazon's client asks for, if there are none.
    """
    with contextlib.ExitStack() as ended_at_last:
        session = boto3.Session()
        if session.get_credentials() is None:
            os.environ.update(AWS_ACCESS_KEY_ID="local", AWS_SECRET_ACCESS_KEY="local")
        if session.region_name is None:
            os.environ["AWS_DEFAULT_REGION"] = "eu-central-1"
        if not os.environ.get("DYNAMODB_ENDPOINT"):
            logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line a request otherwise
            server = ThreadedMotoServer(address, 0, verbose=False)
            server.start()
            ended_at_last.callback(server.stop)
            os.environ["DYNAMODB_ENDPOINT"] = "http://{}:{}".format(*server.get_host_and_port())
            ended_at_last.callback(os.environ.pop, "DYNAMODB_ENDPOINT")
            tables.LOCAL.parent.mkdir(exist_ok=True)
            tables.LOCAL.write_text(os.environ["DYNAMODB_ENDPOINT"])
            ended_at_last.callback(tables.LOCAL.unlink, missing_ok=True)
        for _ in tables.create("laptop"):
            pass
        yield
