"""Bytes at an `s3://` URI, on Amazon's S3 or on the server that AWS_ENDPOINT_URL names.

Requests that fail with 5xx or whose connection is cut are sent again, with growing pauses.
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
from common.protocol import S3_ATTEMPTS

PART = 8 << 20  # bytes of a part of a multipart upload; S3 allows 10,000 of them
PARTS_AT_ONCE = 4
VARIABLES = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if they are temporary, AWS_SESSION_TOKEN"
TROUBLES = {
    "ExpiredToken|ExpiredTokenException|RequestExpired|TokenRefreshRequired": (
        "The credentials for S3 have expired; renew them, then run the task again"
    ),
    "NoCredentialsError|PartialCredentialsError|NoAuthWithAWSException|CredentialRetrievalError": (
        f"There are no credentials for S3; give the task a role, or {VARIABLES}"
    ),
    "InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|InvalidClientTokenId|UnrecognizedClientException": (
        f"S3 does not know these credentials; correct {VARIABLES}"
    ),
    "RequestTimeTooSkewed": "The clock of this machine is wrong, so S3 refuses its requests; set it",
    r"AccessDenied|AccessDeniedException|ACCESS_DENIED|AllAccessDisabled|KMS.\w+Exception": (
        "S3 denies access, though it knows the credentials; grant them this right on the lake and on its KMS key"
    ),
    "EndpointConnectionError|ConnectTimeoutError|ConnectionClosedError|NETWORK_CONNECTION": (
        "The S3 server ({server}) can't be reached; check AWS_ENDPOINT_URL and the network, then run the task again"
    ),
    "SlowDown|ServiceUnavailable|SLOW_DOWN|SERVICE_UNAVAILABLE|AWSServiceThrottledException": (
        "S3 ({server}) stayed overloaded in spite of pauses; run the task again later, or fewer tasks at once"
    ),
}


def read(uri: str, **part: str) -> tuple[bytes, str]:
    """The bytes at a URI, or the part that `Range` names, and their tag; FileNotFoundError if there are none."""
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    bucket, key = bucket_and_key(uri)
    attempt = 1
    while True:
        try:
            answer = client().get_object(Bucket=bucket, Key=key, **part)
            return answer["Body"].read(), answer["ETag"]
        except client().exceptions.NoSuchKey:
            raise FileNotFoundError(uri) from None
        except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):  # the client has let go of it by now
            if attempt == S3_ATTEMPTS:
                raise
            time.sleep(0.1 * 2**attempt)
            attempt += 1


def blocks(uri: str, size: int) -> Iterator[bytes]:
    """The bytes of an object of this size, a few MiB at once; TaskError if it is replaced meanwhile."""
    seen = None
    for start in range(0, size, PART):
        block, tag = read(uri, Range=f"bytes={start}-{min(start + PART, size) - 1}")
        if seen not in (None, tag):
            raise TaskError(f"{uri} was replaced while it was read; run the task again.")
        seen = tag
        yield block


def replace(uri: str, content: bytes, seen: str | None) -> bool:
    """Write bytes if what lies at the URI is still what was seen (a tag, or None for nothing); whether it was."""
    bucket, key = bucket_and_key(uri)
    condition: Any = {"IfNoneMatch": "*"} if seen is None else {"IfMatch": seen}
    for attempt in range(S3_ATTEMPTS):
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
    """A file to be written in order; it is at the URI when the block has ended, and never if the block raises."""
    with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
        upload = Upload(uri, pool)
        try:
            yield upload  # type: ignore[misc]
            upload.complete()
        except BaseException:
            upload.abort()
            raise


class Upload(io.RawIOBase):
    """A file in the making: up to 8 MiB go in one request, more in parts, four of them in memory at a time."""

    def __init__(self, uri: str, pool: ThreadPoolExecutor) -> None:
        self.pool = pool
        self.place: dict[str, Any] = dict(zip(("Bucket", "Key"), bucket_and_key(uri)))
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
            self.place["UploadId"] = client().create_multipart_upload(**self.place, **encryption())["UploadId"]
        if len(self.parts) >= PARTS_AT_ONCE:
            self.parts[-PARTS_AT_ONCE].result()
        number = len(self.parts) + 1
        self.parts.append(self.pool.submit(client().upload_part, **self.place, PartNumber=number, Body=part))

    def complete(self) -> None:
        if not self.parts:
            client().put_object(**self.place, Body=bytes(self.rest), **encryption())
            return
        self.send(bytes(self.rest))
        parts = [{"PartNumber": number, "ETag": part.result()["ETag"]} for number, part in enumerate(self.parts, 1)]
        try:
            client().complete_multipart_upload(**self.place, MultipartUpload={"Parts": parts})
        except client().exceptions.NoSuchUpload:  # the answer to the first request may have been lost
            place = {name: self.place[name] for name in ("Bucket", "Key")}
            if client().head_object(**place)["ContentLength"] != self.bytes:
                raise

    def abort(self) -> None:
        if self.parts:
            wait(self.parts)
            with contextlib.suppress(Exception):  # why it is given up matters more; the next attempt aborts it too
                client().abort_multipart_upload(**self.place)


def files(folder: str, first: str = "", last: str = "\U0010ffff") -> Iterator[tuple[str, int]]:
    """Keys below a folder, relative to it, from the first to the last, with their bytes: a request for 1,000."""
    bucket, prefix = bucket_and_key(f"{folder}/")
    start = {"StartAfter": f"{prefix}{first[:-1]}"} if first else {}
    for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **start):
        for entry in page.get("Contents", []):
            name = entry["Key"].removeprefix(prefix)
            if name > last:
                return
            if name and name >= first and not name.endswith("/"):  # no marker of a folder, nor of this one
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
        delete_files([f"s3://{bucket}/{entry['Key']}" for entry in page.get("Contents", [])])


def delete_files(uris: list[str]) -> None:
    """Delete some objects of one bucket; what can't be deleted raises."""
    for start in range(0, len(uris), 1000):
        bucket = bucket_and_key(uris[0])[0]
        keys = [{"Key": bucket_and_key(uri)[1]} for uri in uris[start : start + 1000]]
        answer = client().delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
        if left := answer.get("Errors"):
            raise OSError(f"{left[0]['Key']} could not be deleted: {left[0]['Code']}")


def abort_uploads(folder: str, own: str, latest: int) -> int:
    """Give up multipart uploads below a folder that never ended, whose parts are stored and hidden; how many.

    Those are meant whose names relative to the folder begin with the pattern `own`, a dash, a number up to `latest`.
    """
    prefix = bucket_and_key(f"{folder}/")[1]

    def is_meant(upload: dict[str, Any]) -> bool:
        begun = re.match(rf"{own}-(\d+)[-/]", upload["Key"].removeprefix(prefix))
        return begun is not None and int(begun[1]) <= latest

    return abort_each(folder, is_meant)


def abort_each(folder: str, is_meant: Callable[[dict[str, Any]], bool]) -> int:
    """Give up those multipart uploads below a folder that a function picks by what S3 lists of each; how many."""
    bucket, prefix = bucket_and_key(f"{folder}/")
    pages = client().get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
    uploads = [upload for page in pages for upload in page.get("Uploads", []) if is_meant(upload)]
    for upload in uploads:
        with contextlib.suppress(client().exceptions.NoSuchUpload):
            client().abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    return len(uploads)


def explained(error: BaseException, lake: str) -> TaskError | None:
    """What to do about an error of any of the three clients (boto3, Arrow's, Hadoop's), if S3 or the way to it is why.

    None of them has types that tell these apart, but each names the code in its text.
    """
    text = f"{type(error).__name__}: {error}"
    if re.search(r"NoSuchBucket|UnknownStoreException", text):
        return InputError(f"The bucket of {lake} does not exist; create it, or correct --lake.")
    for codes, sentence in TROUBLES.items():
        if found := re.search(rf"\b({codes})\b", text):
            operation = re.search(r"when calling the (\w+)|during (\w+) operation", text)
            during = f", {operation[1] or operation[2]}" if operation else ""
            return TaskError(f"{sentence.format(server=endpoint() or 'Amazon')} ({found[1]}{during}).")
    return None


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
    # A server that does not answer is given up after 80 s, not after the eight minutes that are the default.
    options: Any = {
        "connect_timeout": 10,
        "retries": {"mode": "standard", "max_attempts": S3_ATTEMPTS},
        "s3": {"addressing_style": style},
    }
    # Of a session of its own: the shared one keeps the credentials that any other client found first.
    return boto3.Session().client("s3", config=Config(max_pool_connections=32, **options))
