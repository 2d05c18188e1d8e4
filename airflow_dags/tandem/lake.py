"""Where a task's manifest and failure document lie in the lake: what scheduling shares with the jobs, and no more."""

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any, cast

ATTEMPTS = 8  # of a request, as in common.s3: a job's success must not be lost by one cut connection


def encode(identifier: str) -> str:
    """The name of an ID as one segment of a URI, the same as `common.lake.encode`."""
    content = identifier.encode("utf-8", "surrogatepass")
    name = re.sub(rb"^[._]|[^A-Za-z0-9_.-]", lambda match: b"~%02x" % match.group()[0], content).decode("ascii")
    return name if len(name) <= 200 else f"{name[:150]}~~{hashlib.sha256(content).hexdigest()[:32]}"


def task_key(lake: str, dag_id: str, run_id: str, task_id: str, map_index: int | None) -> str:
    """URI of the folder of a task's output; `map_index` is None for a task that is not mapped."""
    key = "/".join([lake, "intermediate", *map(encode, (dag_id, run_id, task_id))])
    return key if map_index is None else f"{key}/map-{map_index}"


def read_document(uri: str) -> dict[str, Any] | None:
    """The JSON document at a file:// or s3:// URI, None if there is none."""
    try:
        return cast(dict[str, Any], json.loads(read_s3(uri) if uri.startswith("s3://") else read_file(uri)))
    except FileNotFoundError:
        return None


def read_file(uri: str) -> bytes:
    return Path(uri.removeprefix("file://")).read_bytes()


def read_s3(uri: str) -> bytes:
    import boto3  # takes a third of a second, which parsing a DAG must not pay
    from botocore.config import Config
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    bucket, _, key = uri.removeprefix("s3://").partition("/")
    client = boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": ATTEMPTS}))
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return cast(bytes, client.get_object(Bucket=bucket, Key=key)["Body"].read())
        except client.exceptions.NoSuchKey:
            raise FileNotFoundError(uri) from None
        except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):  # boto3 does not resend these
            if attempt == ATTEMPTS:
                raise
            time.sleep(0.1 * 2**attempt)
    raise AssertionError


def list_s3(prefix: str) -> list[str]:
    """The URIs of all objects that begin so."""
    import boto3

    bucket, _, key = prefix.removeprefix("s3://").partition("/")
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
    return [f"s3://{bucket}/{entry['Key']}" for page in pages for entry in page.get("Contents", [])]
