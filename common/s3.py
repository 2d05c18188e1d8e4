"""Bytes at an `s3://` URI, on Amazon's S3 or on the server that AWS_ENDPOINT_URL names.

Requests that fail with 5xx or whose connection is cut are sent again, with growing pauses.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

ATTEMPTS = 8  # of a request, over half a minute or so: a server that restarts is back by then
PART = 8 << 20  # bytes of a part of a multipart upload; S3 allows 10,000 of them


def read(uri: str) -> tuple[bytes, str]:
    """The bytes at a URI and their tag; FileNotFoundError if there are none."""
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    bucket, key = bucket_and_key(uri)
    attempt = 1
    while True:
        try:
            answer = client().get_object(Bucket=bucket, Key=key)
            return answer["Body"].read(), answer["ETag"]
        except client().exceptions.NoSuchKey:
            raise FileNotFoundError(uri) from None
        except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):  # the client has let go of it by now
            if attempt == ATTEMPTS:
                raise
            time.sleep(0.1 * 2**attempt)
            attempt += 1


def replace(uri: str, content: bytes, seen: str | None) -> bool:
    """Write bytes if what lies at the URI is still what was seen (a tag, or None for nothing); whether it was."""
    bucket, key = bucket_and_key(uri)
    condition: Any = {"IfNoneMatch": "*"} if seen is None else {"IfMatch": seen}
    for attempt in range(ATTEMPTS):
        try:
            client().put_object(Bucket=bucket, Key=key, Body=content, **condition, **encryption())
            return True
        except client().exceptions.ClientError as error:
            code = error.response["Error"]["Code"]
            if code in ("PreconditionFailed", "NoSuchKey"):
                break
            if code != "ConditionalRequestConflict":  # another write is under way and S3 asks to try again
                raise
            time.sleep(0.1 * 2**attempt)
    # A write whose answer got lost is sent again by the client, and the second finds what the first wrote.
    with contextlib.suppress(FileNotFoundError):
        return read(uri)[0] == content
    return False


def write(uri: str, content: bytes) -> None:
    """Write bytes, whatever lay there before."""
    bucket, key = bucket_and_key(uri)
    client().put_object(Bucket=bucket, Key=key, Body=content, **encryption())


@contextlib.contextmanager
def stream(uri: str) -> Iterator[IO[bytes]]:
    """A file to be written in order; it is at the URI when the block has ended, and never if the block raises.

    Up to 8 MiB go in one request, more in parts, four at a time: at most about 64 MiB are kept in memory.
    """
    from boto3.s3.transfer import TransferConfig

    bucket, key = bucket_and_key(uri)
    config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=4)
    config.max_in_memory_upload_chunks = 4
    reading, writing = os.pipe()
    source = Source(reading)

    def send() -> None:
        with source.file:  # if sending fails, the writer must not wait for ever
            client().upload_fileobj(source, bucket, key, ExtraArgs=encryption(), Config=config)

    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send)
        with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "wb") as file:
            try:
                yield file
            except BaseException:
                source.broken = True
                raise
        sent.result()


class Source:
    """The end of a pipe that an upload reads from; it fails, instead of ending, if the writer did not end well."""

    def __init__(self, descriptor: int) -> None:
        self.file = os.fdopen(descriptor, "rb")
        self.broken = False

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(size)
        if self.broken:
            raise BrokenPipeError("The writer failed, the upload is given up.")
        return content


def files(folder: str, first: str = "", last: str = "\U0010ffff") -> Iterator[tuple[str, int]]:
    """Keys below a folder, relative to it, from the first to the last, with their bytes: a request for 1,000."""
    bucket, prefix = bucket_and_key(f"{folder}/")
    start = {"StartAfter": f"{prefix}{first[:-1]}"} if first else {}
    for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **start):
        for entry in page.get("Contents", []):
            name = entry["Key"].removeprefix(prefix)
            if name > last:
                return
            if name >= first and not name.endswith("/"):  # a marker of a folder
                yield name, entry["Size"]


def folders(folder: str) -> list[str]:
    """The names of the folders right below a folder."""
    bucket, prefix = bucket_and_key(f"{folder}/")
    pages = client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    return [
        entry["Prefix"].removeprefix(prefix).rstrip("/") for page in pages for entry in page.get("CommonPrefixes", [])
    ]


def delete(folder: str) -> None:
    """Delete all that is below a folder."""
    bucket, prefix = bucket_and_key(f"{folder}/")
    for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        if keys := [{"Key": entry["Key"]} for entry in page.get("Contents", [])]:
            answer = client().delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            if left := answer.get("Errors"):
                raise OSError(f"{left[0]['Key']} could not be deleted: {left[0]['Code']}")


def abort_uploads(folder: str, abandoned: Callable[[str], bool]) -> int:
    """Give up the multipart uploads below a folder whose URIs are abandoned, so that nobody pays for their parts."""
    bucket, prefix = bucket_and_key(f"{folder}/")
    aborted = 0
    for page in client().get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
        for upload in page.get("Uploads", []):
            if abandoned(f"s3://{bucket}/{upload['Key']}"):
                with contextlib.suppress(client().exceptions.NoSuchUpload):
                    client().abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                aborted += 1
    return aborted


def bucket_and_key(uri: str) -> tuple[str, str]:
    """The bucket and the key of an `s3://` URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def endpoint() -> str | None:
    """The URL of the S3 server that the environment names, None for Amazon's own."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def key_of_encryption() -> str | None:
    """The KMS key, as ARN, ID or alias, by which what is written is to be encrypted; None leaves it to the bucket."""
    return os.environ.get("TANDEM_S3_KMS_KEY") or None


def encryption() -> dict[str, str]:
    """What a request that writes says of encryption."""
    key = key_of_encryption()
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}


@functools.cache
def client() -> Any:
    """The S3 client, made on the first use: it needs boto3, which a lake of files does not."""
    import boto3
    from botocore.config import Config

    # A server named by AWS_ENDPOINT_URL is rarely reached by a host name per bucket.
    style = "path" if endpoint() else "auto"
    options: Any = {"retries": {"mode": "standard", "max_attempts": ATTEMPTS}, "s3": {"addressing_style": style}}
    return boto3.client("s3", config=Config(max_pool_connections=32, **options))
