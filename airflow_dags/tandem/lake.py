"""Where a task's manifest and failure document lie in the lake: what scheduling shares with the jobs, and no more.

Jobs wrote what is read here, and a job may be wrong, or not be ours: files are bounded, and no link is followed.
"""

import json
import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from tandem.protocol import S3_ATTEMPTS

MAX_DOCUMENT = 64 << 20  # bytes; a manifest names all files of its task
log = logging.getLogger(__name__)


class Unreadable(Exception):
    """A file is a link, a pipe or another thing that is not a file, or it is too large."""


def read_document(uri: str) -> dict[str, Any] | None:
    """The JSON object at a file:// or s3:// URI, None if there is none that can be read."""
    try:
        if uri.startswith("s3://"):
            content = read_s3(uri, lambda body: bounded(body, uri, MAX_DOCUMENT))
        else:
            content = read_file(Path(uri.removeprefix("file://")), MAX_DOCUMENT)
        document = json.loads(content)
        if not isinstance(document, dict):
            raise Unreadable(f"{uri} holds no JSON object")
        return document
    except FileNotFoundError:
        return None
    except (Unreadable, ValueError, RecursionError) as error:
        log.warning("A document of the job is left out of account: %s (%s).", uri, error)
        return None


def read_file(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most so many bytes; FileNotFoundError, or Unreadable with the reason.

    No link is followed, so a job cannot have a file of this machine read; a pipe that nobody writes to does not block.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise Unreadable(f"{path} cannot be opened as a file: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Unreadable(f"{path} is not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return bounded(file, path, limit)
    finally:
        os.close(descriptor)


def bounded(file: Any, name: Any, limit: int) -> bytes:
    """All that a file holds; Unreadable if that is more than so many bytes."""
    content: bytes = file.read(limit + 1)
    if len(content) > limit:
        raise Unreadable(f"{name} has more than {limit} bytes")
    return content + cast(bytes, file.read())  # nothing; of a response that was cut off an error


def read_s3(uri: str, read: Callable[[Any], bytes]) -> bytes:
    """Return what `read` takes of an object, given as a file; retried if the connection is cut.

    FileNotFoundError if there is no object.
    """
    import boto3  # takes a third of a second, which parsing a DAG must not pay
    from botocore.config import Config
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    bucket, _, key = uri.removeprefix("s3://").partition("/")
    client = boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": S3_ATTEMPTS}))
    for attempt in range(1, S3_ATTEMPTS + 1):
        try:
            return read(client.get_object(Bucket=bucket, Key=key)["Body"])
        except client.exceptions.NoSuchKey:
            raise FileNotFoundError(uri) from None
        except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):  # boto3 does not resend these
            if attempt == S3_ATTEMPTS:
                raise
            time.sleep(0.1 * 2**attempt)
    raise AssertionError


def list_s3(prefix: str) -> list[str]:
    """The URIs of all objects that begin so."""
    import boto3

    bucket, _, key = prefix.removeprefix("s3://").partition("/")
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
    return [f"s3://{bucket}/{entry['Key']}" for page in pages for entry in page.get("Contents", [])]
