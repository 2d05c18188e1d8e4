"""Objects on S3, or on the server that AWS_ENDPOINT_URL names."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from tandem.protocol import S3_ATTEMPTS
from tandem.stores.files import File, bounded

THREADS = 16


def client() -> Any:
    """A client for reading; threads may share one."""
    import boto3  # 0.3 s, too slow for parsing DAGs
    from botocore.config import Config

    retries: Any = {"mode": "standard", "max_attempts": S3_ATTEMPTS}
    return boto3.client("s3", config=Config(retries=retries, max_pool_connections=THREADS))


def read(uri: str, limit: int, client: Any = None) -> bytes:
    """The content of an object of at most `limit` bytes."""
    return opened(uri, lambda body: bounded(body, uri, limit), client)


def opened(uri: str, read: Callable[[Any], bytes], s3: Any = None) -> bytes:
    """Return the result of `read` for an object, opened as a file; retried if the connection is cut.

    Raises FileNotFoundError if there is no object.
    """
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    bucket, key = split(uri)
    s3 = s3 or client()
    for attempt in range(1, S3_ATTEMPTS + 1):
        try:
            return read(s3.get_object(Bucket=bucket, Key=key)["Body"])
        except s3.exceptions.NoSuchKey:
            raise FileNotFoundError(uri) from None
        except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):  # boto3 does not resend these
            if attempt == S3_ATTEMPTS:
                raise
            time.sleep(0.1 * 2**attempt)
    raise AssertionError


def write(uri: str, content: bytes) -> None:
    """Write an object; a server that does not answer is given up within seconds."""
    import boto3
    from botocore.config import Config

    bucket, key = split(uri)
    config = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "max_attempts": 2})
    encryption = os.environ.get("TANDEM_S3_KMS_KEY")
    options = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": encryption} if encryption else {}
    boto3.client("s3", config=config).put_object(Bucket=bucket, Key=key, Body=content, **options)


def below(folder: str) -> Iterator[File]:
    """The objects below a folder."""
    bucket, prefix = split(f"{folder.rstrip('/')}/")
    for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for each in page.get("Contents", []):
            changed = each["LastModified"].timestamp()
            yield File(f"s3://{bucket}/{each['Key']}", each["Size"], each["ETag"].strip('"'), changed)


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of a URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
