"""List files of the lake; read manifests, ledgers, failure documents and logs from it.

Jobs wrote these files, and a job may be faulty or foreign: sizes are bounded, and no link is followed.
"""

import contextlib
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from tandem.protocol import S3_ATTEMPTS

MAX_DOCUMENT = 64 << 20  # bytes; a manifest names all files of its task
log = logging.getLogger(__name__)


class File(NamedTuple):
    """A file of the lake: URI, bytes, tag (ETag on S3, st_mtime_ns in a file system), seconds of the last change."""

    uri: str
    bytes: int
    tag: str
    changed: float


class Unreadable(Exception):
    """A path is not a regular file, or the file is too large."""


def read_document(uri: str) -> dict[str, Any] | None:
    """The JSON object at a file:// or s3:// URI, None if there is none or it cannot be read."""
    try:
        document = json.loads(read(uri))
        if not isinstance(document, dict):
            raise Unreadable(f"{uri} does not contain a JSON object")
        return document
    except FileNotFoundError:
        return None
    except (Unreadable, ValueError, RecursionError) as error:
        log.warning("A document of the job is ignored: %s (%s).", uri, error)
        return None


def read(uri: str) -> bytes:
    """The content of a document at a file:// or s3:// URI; raises FileNotFoundError or Unreadable."""
    if uri.startswith("s3://"):
        return read_s3(uri, lambda body: bounded(body, uri, MAX_DOCUMENT))
    return read_file(Path(uri.removeprefix("file://")), MAX_DOCUMENT)


def read_file(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes; raises FileNotFoundError or Unreadable.

    No link is followed, so a job cannot make this read other files of the machine; a pipe does not block.
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
    """The whole content of a file; Unreadable if it has more than `limit` bytes."""
    content: bytes = file.read(limit + 1)
    if len(content) > limit:
        raise Unreadable(f"{name} has more than {limit} bytes")
    return content + cast(bytes, file.read())  # empty, but raises an error for a response that was cut off


def read_s3(uri: str, read: Callable[[Any], bytes]) -> bytes:
    """Return the result of `read` for an object, opened as a file; retried if the connection is cut.

    Raises FileNotFoundError if there is no object.
    """
    import boto3  # 0.3 s, too slow for parsing DAGs
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


def files(folder: str) -> list[File]:
    """All files below a folder, sorted by URI, without those that jobs do not see (`_…`, `.…`)."""
    listed = list_s3(f"{folder}/") if folder.startswith("s3://") else files_below(folder.removeprefix("file://"))
    return sorted(
        file
        for file in listed
        if not any(name.startswith(("_", ".")) for name in file.uri.removeprefix(folder).split("/"))
        and not file.uri.endswith("/")  # a marker of a folder
    )


def files_below(folder: str) -> Iterator[File]:
    """The files below a folder of a file system; none without the folder."""
    for path, _, names in os.walk(folder, followlinks=True):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # deleted concurrently
                status = os.stat(f"{path}/{name}")
                yield File(f"file://{path}/{name}", status.st_size, str(status.st_mtime_ns), status.st_mtime)


def list_s3(prefix: str) -> list[File]:
    """All objects with this prefix."""
    import boto3

    bucket, _, key = prefix.removeprefix("s3://").partition("/")
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
    return [
        File(f"s3://{bucket}/{each['Key']}", each["Size"], each["ETag"].strip('"'), each["LastModified"].timestamp())
        for page in pages
        for each in page.get("Contents", [])
    ]
