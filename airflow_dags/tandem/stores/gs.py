"""Objects on Google Cloud Storage, or on the server that STORAGE_EMULATOR_HOST names."""

import os
from collections.abc import Iterator
from typing import Any

from tandem.dag_errors import PipelineError
from tandem.stores.files import File, Unreadable

RETRY_SECONDS = 60  # per request: a server that restarts is back by then
LISTED = "items(name,size,generation,updated),nextPageToken"


def client() -> Any:
    """A client; threads may share one. PipelineError if Google's package is not installed."""
    try:
        from google.cloud import storage  # 0.5 s, too slow for parsing DAGs
    except ModuleNotFoundError as error:
        raise PipelineError(
            f"A lake on gs:// needs Google's client, but {error.name} is not installed; install it for Airflow: "
            "pip install --no-deps --require-hashes -r requirements/airflow-dataproc.txt"
        ) from None
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")  # a request beside the first one
    return storage.Client(project=None)  # a lake needs the right to its bucket only, not to a project


def read(uri: str, limit: int, client: Any = None) -> bytes:
    """The content of an object of at most `limit` bytes."""
    found = blob(uri, client)
    from google.api_core.exceptions import NotFound, RequestRangeNotSatisfiable

    try:
        # Raw: the stored bytes, also of an object that is stored as gzip of its content.
        content: bytes = found.download_as_bytes(start=0, end=limit, raw_download=True, **patient())
    except RequestRangeNotSatisfiable:  # it is empty
        return b""
    except NotFound:
        raise FileNotFoundError(uri) from None
    if len(content) > limit:
        raise Unreadable(f"{uri} has more than {limit} bytes")
    return content


def write(uri: str, content: bytes) -> None:
    """Write an object; a server that does not answer is given up within seconds."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    blob(uri).upload_from_string(
        content, content_type="application/octet-stream", retry=DEFAULT_RETRY.with_timeout(5), timeout=(3, 5)
    )


def below(folder: str) -> Iterator[File]:
    """The objects below a folder."""
    bucket, prefix = split(f"{folder.rstrip('/')}/")
    for each in client().list_blobs(bucket, prefix=prefix, fields=LISTED, **patient()):
        yield File(f"gs://{bucket}/{each.name}", each.size, str(each.generation), each.updated.timestamp())


def blob(uri: str, gs: Any = None) -> Any:
    bucket, name = split(uri)
    return (gs or client()).bucket(bucket).blob(name, kms_key_name=os.environ.get("TANDEM_GS_KMS_KEY") or None)


def patient() -> dict[str, Any]:
    """The options of a request that is worth waiting for."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    return {"retry": DEFAULT_RETRY.with_timeout(RETRY_SECONDS).with_delay(maximum=20), "timeout": (10, 60)}


def split(uri: str) -> tuple[str, str]:
    """Bucket and name of a URI."""
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    return bucket, name
