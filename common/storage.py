"""Bytes at a URI (`file:///…` or `s3://…`): read, list, write, and write only if nothing changed meanwhile.

A `file://` URI is taken as it stands, without percent-decoding, as Hadoop takes it.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Changed(Exception):
    """What lies at the URI is not what was seen there before."""


class File(NamedTuple):
    """A file in the lake and its size in bytes."""

    uri: str
    bytes: int


def read(uri: str) -> tuple[bytes, str]:
    """The bytes at a URI and the tag by which `replace` knows them again; FileNotFoundError if there are none."""
    if is_s3(uri):
        bucket, key = bucket_and_key(uri)
        try:
            answer = s3().get_object(Bucket=bucket, Key=key)
            return answer["Body"].read(), answer["ETag"]
        except s3().exceptions.NoSuchKey:
            raise FileNotFoundError(uri) from None
    content = local(uri).read_bytes()
    return content, hashlib.sha256(content).hexdigest()


def replace(uri: str, content: bytes, seen: str | None) -> None:
    """Write bytes that are there in whole or not at all, if what lies there is still what was seen (None: nothing).

    Raises Changed if it is not.
    """
    if is_s3(uri):
        replace_on_s3(uri, content, seen)
        return
    path = local(uri)
    with locked(path):
        try:
            there = read(uri)[1]
        except FileNotFoundError:
            there = None
        if there != seen:
            raise Changed(uri)
        write(uri, content)


def replace_on_s3(uri: str, content: bytes, seen: str | None) -> None:
    bucket, key = bucket_and_key(uri)
    condition: Any = {"IfNoneMatch": "*"} if seen is None else {"IfMatch": seen}
    for _ in range(10):
        try:
            s3().put_object(Bucket=bucket, Key=key, Body=content, **condition)
            return
        except s3().exceptions.ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "ConditionalRequestConflict":  # another write is under way and S3 asks to try again
                time.sleep(0.1)
                continue
            if code not in ("PreconditionFailed", "NoSuchKey"):
                raise
        # A write whose answer got lost is sent again by the client, and the second finds what the first wrote.
        with contextlib.suppress(FileNotFoundError):
            if read(uri)[0] == content:
                return
        raise Changed(uri)
    raise Changed(uri)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the kernel gives the lock back when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write(uri: str, content: bytes) -> None:
    """Write bytes that are there in whole or not at all, whatever lay there before."""
    if is_s3(uri):
        bucket, key = bucket_and_key(uri)
        s3().put_object(Bucket=bucket, Key=key, Body=content)
        return
    path = local(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{uuid.uuid4().hex}")
    with hidden.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    hidden.rename(path)


def files(folder: str) -> list[File]:
    """All files below a folder, in the order of their URIs, without those that Hadoop hides (`_…`, `.…`)."""
    if is_s3(folder):
        bucket, prefix = bucket_and_key(folder)
        found = [
            File(f"s3://{bucket}/{entry['Key']}", entry["Size"])
            for page in s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
            for entry in page.get("Contents", [])
            if not entry["Key"].endswith("/")  # a marker of a folder
        ]
    else:
        found = [
            File(f"file://{parent}/{name}", os.stat(f"{parent}/{name}").st_size)
            for parent, _, names in os.walk(local(folder))
            for name in names
        ]
    return sorted(
        file
        for file in found
        if not any(name.startswith(("_", ".")) for name in file.uri.removeprefix(folder).split("/"))
    )


def folders(folder: str) -> list[str]:
    """The names of the folders right below a folder, sorted, without hidden ones."""
    if is_s3(folder):
        bucket, prefix = bucket_and_key(folder)
        pages = s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/", Delimiter="/")
        names = [
            entry["Prefix"].removeprefix(f"{prefix}/").rstrip("/")
            for page in pages
            for entry in page.get("CommonPrefixes", [])
        ]
    else:
        path = local(folder)
        names = [entry.name for entry in os.scandir(path) if entry.is_dir()] if path.is_dir() else []
    return sorted(name for name in names if not name.startswith(("_", ".")))


def delete(folder: str) -> None:
    """Delete a folder and all that is below it; nothing there is fine."""
    if not is_s3(folder):
        shutil.rmtree(local(folder), ignore_errors=True)
        return
    bucket, prefix = bucket_and_key(folder)
    for page in s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
        if keys := [{"Key": entry["Key"]} for entry in page.get("Contents", [])]:
            s3().delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})


def is_s3(uri: str) -> bool:
    """Whether a URI names S3 rather than a file system; ValueError for any other scheme."""
    if not uri.startswith(("s3://", "file:///")):
        raise ValueError(f"'{uri}' is no place that Tandem knows, expected s3://BUCKET/… or file:///….")
    return uri.startswith("s3://")


def local(uri: str) -> Path:
    """The path of a `file://` URI."""
    return Path(uri.removeprefix("file://"))


def bucket_and_key(uri: str) -> tuple[str, str]:
    """The bucket and the key of an `s3://` URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def s3_endpoint() -> str | None:
    """The URL of the S3 server that the environment names, None for Amazon's own."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


@functools.cache
def s3() -> Any:
    """The S3 client, made on the first use: it needs boto3, which a lake of files does not."""
    import boto3
    from botocore.config import Config

    # A server named by AWS_ENDPOINT_URL is rarely reached by a host name per bucket.
    style = "path" if s3_endpoint() else "auto"
    options: Any = {"retries": {"mode": "standard", "max_attempts": 8}, "s3": {"addressing_style": style}}
    return boto3.client("s3", config=Config(max_pool_connections=32, **options))
