"""Bytes at an `s3://` URI, on Amazon's S3 or on the server that AWS_ENDPOINT_URL names.

Requests that fail with 5xx or whose connection breaks are retried with exponential backoff.
"""

import contextlib
import functools
import io
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import IO, Any

from common.errors import InputError, TaskError
from common.handover.stores.ranges import unchanged_blocks
from common.protocol import S3_ATTEMPTS

PART = 8 << 20  # bytes of a part of a multipart upload; S3 allows 10,000 of them
MAX_PARTS_IN_FLIGHT = 4
VARIABLES = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if they are temporary, AWS_SESSION_TOKEN"
REMEDIES = {  # by pattern of error codes
    "ExpiredToken|ExpiredTokenException|RequestExpired|TokenRefreshRequired": (
        "The credentials for S3 have expired; renew them, then rerun the task"
    ),
    "NoCredentialsError|PartialCredentialsError|NoAuthWithAWSException|CredentialRetrievalError": (
        f"There are no credentials for S3; give the task a role, or set {VARIABLES}"
    ),
    "InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|InvalidClientTokenId|UnrecognizedClientException": (
        f"S3 rejects these credentials; correct {VARIABLES}"
    ),
    "RequestTimeTooSkewed": "The clock of this machine is wrong, so S3 refuses its requests; set it",
    r"AccessDenied|AccessDeniedException|ACCESS_DENIED|AllAccessDisabled|KMS.\w+Exception": (
        "S3 denies access to valid credentials; grant them this right on the lake and on its KMS key"
    ),
    "EndpointConnectionError|ConnectTimeoutError|ConnectionClosedError|NETWORK_CONNECTION": (
        "The S3 server ({server}) can't be reached; check AWS_ENDPOINT_URL and the network, then rerun the task"
    ),
    "SlowDown|ServiceUnavailable|SLOW_DOWN|SERVICE_UNAVAILABLE|AWSServiceThrottledException|UNKNOWN .HTTP status 503": (
        "S3 ({server}) kept throttling despite backoff; retry later or run fewer tasks in parallel"
    ),
    # The AWS SDK in Arrow loses the code of some answers.
    "UNKNOWN .HTTP status 400": (
        "S3 ({server}) refused a request; renew the credentials if they have expired, then rerun the task"
    ),
}


def read(uri: str, first: int | None = None, last: int | None = None) -> tuple[bytes, str]:
    """Return the bytes at a URI, or those from first to last, and their tag; FileNotFoundError if there are none."""
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    bucket, key = bucket_and_key(uri)
    options = {} if first is None else {"Range": f"bytes={first}-{last}"}
    attempt = 1
    while True:
        try:
            response = client().get_object(Bucket=bucket, Key=key, **options)
            return response["Body"].read(), response["ETag"]
        except client().exceptions.NoSuchKey:
            raise FileNotFoundError(uri) from None
        except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):  # the client does not retry these
            if attempt == S3_ATTEMPTS:
                raise
            time.sleep(0.1 * 2**attempt)
            attempt += 1


def blocks(uri: str, size: int) -> Iterator[bytes]:
    """Yield the bytes of an object, a few MiB at a time; TaskError if it is replaced while being read."""
    return unchanged_blocks(read, uri, size, PART)


def replace(uri: str, content: bytes, expected: str | None) -> bool:
    """Compare-and-swap: write if the content has the expected tag (None: no content); False if it does not."""
    bucket, key = bucket_and_key(uri)
    condition: Any = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
    for attempt in range(S3_ATTEMPTS):
        try:
            client().put_object(Bucket=bucket, Key=key, Body=content, **condition, **encryption())
            return True
        except client().exceptions.ClientError as error:
            code = error.response["Error"]["Code"]
            if code in ("PreconditionFailed", "NoSuchKey"):
                break
            if code != "ConditionalRequestConflict":  # another write is in progress and S3 asks for a retry
                raise
            time.sleep(0.1 * 2**attempt)
    # The client retries a write whose response got lost, and the retry then finds the content of the first.
    with contextlib.suppress(FileNotFoundError):
        return read(uri)[0] == content
    return False


def write(uri: str, content: bytes) -> None:
    """Write bytes, over any former content."""
    bucket, key = bucket_and_key(uri)
    client().put_object(Bucket=bucket, Key=key, Body=content, **encryption())


@contextlib.contextmanager
def stream(uri: str) -> Iterator[IO[bytes]]:
    """Open a file to be written in order; it appears at the URI after the block, and never if the block raises."""
    with ThreadPoolExecutor(MAX_PARTS_IN_FLIGHT) as pool:
        upload = Upload(uri, pool)
        try:
            yield upload  # type: ignore[misc]
            upload.complete()
        except BaseException:
            upload.abort()
            raise


class Upload(io.RawIOBase):
    """A file being uploaded: up to 8 MiB in one request, more in parts, at most four of them in memory."""

    def __init__(self, uri: str, pool: ThreadPoolExecutor) -> None:
        self.pool = pool
        self.target: dict[str, Any] = dict(zip(("Bucket", "Key"), bucket_and_key(uri)))
        self.rest = bytearray()
        self.bytes = 0
        self.parts: list[Future[Any]] = []

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        size = memoryview(content).nbytes
        self.rest += content
        self.bytes += size
        while len(self.rest) > PART:
            self.send(bytes(self.rest[:PART]))
            del self.rest[:PART]
        return size

    def send(self, part: bytes) -> None:
        if not self.parts:
            self.target["UploadId"] = client().create_multipart_upload(**self.target, **encryption())["UploadId"]
        if len(self.parts) >= MAX_PARTS_IN_FLIGHT:
            self.parts[-MAX_PARTS_IN_FLIGHT].result()
        number = len(self.parts) + 1
        self.parts.append(self.pool.submit(client().upload_part, **self.target, PartNumber=number, Body=part))

    def complete(self) -> None:
        if not self.parts:
            client().put_object(**self.target, Body=bytes(self.rest), **encryption())
            return
        self.send(bytes(self.rest))
        parts = [{"PartNumber": number, "ETag": part.result()["ETag"]} for number, part in enumerate(self.parts, 1)]
        try:
            client().complete_multipart_upload(**self.target, MultipartUpload={"Parts": parts})
        except client().exceptions.NoSuchUpload:  # the response to the first request may have been lost
            target = {name: self.target[name] for name in ("Bucket", "Key")}
            if client().head_object(**target)["ContentLength"] != self.bytes:
                raise

    def abort(self) -> None:
        if self.parts:
            wait(self.parts)
            with contextlib.suppress(Exception):  # the cause of the abort matters more; the next attempt aborts it too
                client().abort_multipart_upload(**self.target)


def files(folder: str, first: str = "", last: str = "\U0010ffff") -> Iterator[tuple[str, int, str]]:
    """Yield keys below a folder, relative to it, from first to last, with bytes and ETag: one request per 1,000."""
    bucket, prefix = bucket_and_key(f"{folder}/")
    start = {"StartAfter": f"{prefix}{first[:-1]}"} if first else {}
    for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **start):
        for entry in page.get("Contents", []):
            name = entry["Key"].removeprefix(prefix)
            if name > last:
                return
            if name and name >= first and not name.endswith("/"):  # no folder markers
                yield name, entry["Size"], entry["ETag"].strip('"')


def entries(folder: str) -> Iterator[tuple[str, int, float]]:
    """Yield all keys below a folder, relative to it, with bytes and time of change."""
    bucket, prefix = bucket_and_key(f"{folder}/")
    for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for each in page.get("Contents", []):
            yield each["Key"].removeprefix(prefix), each["Size"], each["LastModified"].timestamp()


def folders(folder: str) -> list[str]:
    """Return the names of the folders right below a folder."""
    bucket, prefix = bucket_and_key(f"{folder}/")
    pages = client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    return [
        entry["Prefix"].removeprefix(prefix).rstrip("/") for page in pages for entry in page.get("CommonPrefixes", [])
    ]


def delete(folder: str) -> None:
    """Delete everything below a folder."""
    bucket, prefix = bucket_and_key(f"{folder}/")
    for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        delete_files([f"s3://{bucket}/{entry['Key']}" for entry in page.get("Contents", [])])


def delete_files(uris: list[str]) -> None:
    """Delete some objects of one bucket; OSError names one that can't be deleted."""
    for start in range(0, len(uris), 1000):
        bucket = bucket_and_key(uris[0])[0]
        keys = [{"Key": bucket_and_key(uri)[1]} for uri in uris[start : start + 1000]]
        response = client().delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
        if errors := response.get("Errors"):
            raise OSError(f"{errors[0]['Key']} could not be deleted: {errors[0]['Code']}")


def download(uri: str, path: str) -> None:
    """Copy an object to a path of this machine, in parts."""
    bucket, key = bucket_and_key(uri)
    client().download_file(bucket, key, path)


def abort_uploads(folder: str, pattern: str, latest: int) -> int:
    """Abort unfinished multipart uploads below a folder, whose parts are stored and hidden; return their number.

    It selects names relative to the folder that begin with the pattern, a dash and a number up to `latest`.
    """
    prefix = bucket_and_key(f"{folder}/")[1]

    def is_selected(upload: dict[str, Any]) -> bool:
        match = re.match(rf"{pattern}-(\d+)[-/]", upload["Key"].removeprefix(prefix))
        return match is not None and int(match[1]) <= latest

    return abort_matching(folder, is_selected)


def abort_matching(folder: str, is_selected: Callable[[dict[str, Any]], bool]) -> int:
    """Abort the multipart uploads below a folder that a function selects by S3's entries; return their number."""
    bucket, prefix = bucket_and_key(f"{folder}/")
    pages = client().get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
    uploads = [upload for page in pages for upload in page.get("Uploads", []) if is_selected(upload)]
    for upload in uploads:
        with contextlib.suppress(client().exceptions.NoSuchUpload):
            client().abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    return len(uploads)


def explain(error: BaseException, lake: str) -> TaskError | None:
    """Return an error with a remedy for one of boto3, Arrow or Hadoop, if S3 or the connection to it is the cause.

    None of these clients has a type per cause, but each has the code in its text.
    """
    text = f"{type(error).__name__}: {error}"
    if re.search(r"NoSuchBucket|UnknownStoreException", text):
        return InputError(f"The bucket of {lake} does not exist; create it, or correct --lake.")
    for codes, sentence in REMEDIES.items():
        if match := re.search(rf"\b({codes})\b", text):
            operation = re.search(r"when calling the (\w+)|during (\w+) operation", text)
            during = f", {operation[1] or operation[2]}" if operation else ""
            return TaskError(f"{sentence.format(server=endpoint() or 'Amazon')} ({match[1]}{during}).")
    return None


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Return the bucket and the key of an `s3://` URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def endpoint() -> str | None:
    """Return the URL of the S3 server that the environment names, None for Amazon's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def encryption_key() -> str | None:
    """Return the KMS key (ARN, ID or alias) for encrypting writes; None leaves it to the bucket."""
    return os.environ.get("TANDEM_S3_KMS_KEY") or None


def encryption() -> dict[str, str]:
    """Return the encryption options of a request that writes."""
    key = encryption_key()
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}


@functools.cache
def client() -> Any:
    """Return the S3 client, made on first use: it needs boto3, which a lake of files does not."""
    import boto3
    from botocore.config import Config

    # A server named by AWS_ENDPOINT_URL rarely has a host name per bucket.
    style = "path" if endpoint() else "auto"
    # A server that does not answer fails after 80 s, not after the default of eight minutes.
    options: Any = {
        "connect_timeout": 10,
        "retries": {"mode": "standard", "max_attempts": S3_ATTEMPTS},
        "s3": {"addressing_style": style},
    }
    # In its own session: the shared one keeps the credentials that any other client found first.
    return boto3.Session().client("s3", config=Config(max_pool_connections=32, **options))
