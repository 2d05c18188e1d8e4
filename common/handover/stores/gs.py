"""Bytes at a `gs://` URI, on Google Cloud Storage or on the server that STORAGE_EMULATOR_HOST names.

A tag is an object's generation. Requests that fail with 429 or 5xx, or whose connection breaks, are retried with
exponential backoff.
"""

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from common.errors import InputError, TaskError
from common.handover.stores.ranges import unchanged_blocks

PART = 8 << 20  # bytes of a request of a resumable upload
THREADS = 32  # connections; deletions at a time
RETRY_SECONDS = 40  # per request, as long as S3_ATTEMPTS take: a server that restarts is back by then
TIMEOUTS = (10, 60)  # seconds to connect, and for an answer
TYPE = "application/octet-stream"
LISTED = "items(name,size,generation),prefixes,nextPageToken"
NO_BUCKET = "The specified bucket does not exist"
VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"


def status(code: int, name: str) -> str:
    """Return the pattern of a status in the errors of Google's clients in Python, C++ and Java."""
    return rf"^{name}: |last exception: {code} |status code', {code},|\"code\" ?: ?{code}\b"


REMEDIES = {  # by the name of a cause: a pattern of the text of its errors, and a sentence
    "no credentials": (
        "DefaultCredentialsError|Could not automatically determine credentials",
        "There are no credentials for Google Cloud Storage; give the task a service account, or name a file of "
        f"credentials in {VARIABLE}",
    ),
    "clock": (
        "in a reasonable timeframe",
        "The clock of this machine is wrong, so Google refuses its requests; set it",
    ),
    "KMS": (
        "KMS key",
        "Google Cloud Storage can't use the KMS key; enable the key, and grant its use to the project's storage "
        "service agent",
    ),
    "HTTP 401": (
        f"{status(401, 'Unauthorized')}|^RefreshError: |invalid_grant|Status\\(UNAUTHENTICATED|Anonymous credentials",
        f"Google rejects these credentials, or they have expired; renew them, or correct the file that {VARIABLE} "
        "names, then rerun the task",
    ),
    "HTTP 403": (
        f"{status(403, 'Forbidden')}|Status\\(PERMISSION_DENIED",
        "Google Cloud Storage denies access to valid credentials; grant them this right on the lake",
    ),
    "HTTP 429": (
        f"{status(429, 'TooManyRequests')}|{status(503, 'ServiceUnavailable')}|Status\\(RESOURCE_EXHAUSTED",
        "Google Cloud Storage ({server}) kept throttling despite backoff; retry later or run fewer tasks in parallel",
    ),
    "no connection": (
        "last exception: .*(Connection|Timeout|timed out|Max retries exceeded)|^TransportError: |Status\\(UNAVAILABLE",
        "Google Cloud Storage ({server}) can't be reached; check STORAGE_EMULATOR_HOST and the network, then rerun "
        "the task",
    ),
}


def read(uri: str, first: int | None = None, last: int | None = None) -> tuple[bytes, str]:
    """Return the bytes at a URI, or those from first to last, and their tag; FileNotFoundError if there are none."""
    from google.api_core.exceptions import NotFound

    found = blob(uri)
    try:
        # Raw: the stored bytes, also of an object that is stored as gzip of its content.
        content = found.download_as_bytes(start=first, end=last, raw_download=True, **options())
    except NotFound as error:
        if NO_BUCKET in str(error):
            raise
        raise FileNotFoundError(uri) from None
    return content, str(found.generation)


def blocks(uri: str, size: int) -> Iterator[bytes]:
    """Yield the bytes of an object, a few MiB at a time; TaskError if it is replaced while being read."""
    return unchanged_blocks(read, uri, size, PART)


def replace(uri: str, content: bytes, expected: str | None) -> bool:
    """Compare-and-swap: write if the content has the expected tag (None: no content); False if it does not."""
    from google.api_core.exceptions import PreconditionFailed

    try:
        put(uri, content, if_generation_match=int(expected or 0))
        return True
    except PreconditionFailed:
        # The client retries a write whose response got lost, and the retry then finds the content of the first.
        with contextlib.suppress(FileNotFoundError):
            return read(uri)[0] == content
        return False


def write(uri: str, content: bytes) -> None:
    """Write bytes, over any former content."""
    put(uri, content)


def put(uri: str, content: bytes, **conditions: int) -> None:
    blob(uri).upload_from_string(content, content_type=TYPE, **conditions, **options())


@contextlib.contextmanager
def stream(uri: str) -> Iterator[IO[bytes]]:
    """Open a file to be written in order; it appears at the URI after the block, and never if the block raises."""
    from google.api_core.exceptions import from_http_response
    from google.cloud.storage.exceptions import InvalidResponse

    writer = blob(uri).open("wb", chunk_size=PART, ignore_flush=True, content_type=TYPE, **options())
    # Wrappers of a file close it, also if the block raises; that would complete the upload.
    complete, writer.close = writer.close, lambda: None
    try:
        yield writer
        complete()
    except BaseException as error:
        with contextlib.suppress(Exception):  # the cause matters more; nothing of the upload is visible
            writer.terminate()
        if isinstance(error, InvalidResponse):  # which says less
            raise from_http_response(error.response) from error
        raise


def files(folder: str, first: str = "", last: str = "\U0010ffff") -> Iterator[tuple[str, int, str]]:
    """Yield names below a folder, relative to it, from first to last, with bytes and generation."""
    bucket, prefix = bucket_and_name(f"{folder}/")
    listed = client().list_blobs(bucket, prefix=prefix, start_offset=f"{prefix}{first}", fields=LISTED, **options())
    for found in listed:
        name = found.name.removeprefix(prefix)
        if name > last:
            return
        if name and not name.endswith("/"):  # no folder markers
            yield name, found.size, str(found.generation)


def entries(folder: str) -> Iterator[tuple[str, int, float]]:
    """Yield all names below a folder, relative to it, with bytes and the time when the content was written."""
    bucket, prefix = bucket_and_name(f"{folder}/")
    fields = "items(name,size,timeCreated),nextPageToken"
    for found in client().list_blobs(bucket, prefix=prefix, fields=fields, **options()):
        yield found.name.removeprefix(prefix), found.size, found.time_created.timestamp()


def folders(folder: str) -> list[str]:
    """Return the names of the folders right below a folder."""
    bucket, prefix = bucket_and_name(f"{folder}/")
    pages = client().list_blobs(bucket, prefix=prefix, delimiter="/", fields=LISTED, **options()).pages
    return [name.removeprefix(prefix).rstrip("/") for page in pages for name in page.prefixes]


def delete(folder: str) -> None:
    """Delete everything below a folder."""
    bucket, prefix = bucket_and_name(f"{folder}/")
    for page in client().list_blobs(bucket, prefix=prefix, fields=LISTED, **options()).pages:
        delete_files([f"gs://{bucket}/{found.name}" for found in page])


def delete_files(uris: list[str]) -> None:
    """Delete some objects; missing ones are fine."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(delete_file, uris))


def delete_file(uri: str) -> None:
    from google.api_core.exceptions import NotFound

    with contextlib.suppress(NotFound):
        blob(uri).delete(**options())


def download(uri: str, path: str) -> None:
    """Copy an object to a path of this machine."""
    blob(uri).download_to_filename(path, raw_download=True, **options())


def abort_uploads(folder: str, pattern: str, latest: int) -> int:
    """Return 0: Google lists no unfinished uploads, and deletes them after a week."""
    return 0


def explain(error: BaseException, lake: str) -> TaskError | None:
    """Return an error with a remedy for one of Google's clients, Arrow or Hadoop, if the store is the cause."""
    text = f"{type(error).__name__}: {error}"
    if re.search(rf"{NO_BUCKET}|NotFound: 404 (GET|POST) \S+/b/[^/]+/o\?", text):
        return InputError(f"The bucket of {lake} does not exist; create it, or correct --lake.")
    for cause, (pattern, sentence) in REMEDIES.items():
        if re.search(pattern, text):
            return TaskError(f"{sentence.format(server=endpoint() or 'Google')} ({cause}).")
    return None


def bucket_and_name(uri: str) -> tuple[str, str]:
    """Return the bucket and the object's name of a `gs://` URI."""
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    return bucket, name


def blob(uri: str) -> Any:
    bucket, name = bucket_and_name(uri)
    return client().bucket(bucket).blob(name, kms_key_name=encryption_key())


def options() -> dict[str, Any]:
    """Return the options of any request: retries, also of writes without a condition, and timeouts."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    return {"retry": DEFAULT_RETRY.with_timeout(RETRY_SECONDS).with_delay(maximum=20), "timeout": TIMEOUTS}


def endpoint() -> str | None:
    """Return the URL of the server that the environment names, None for Google's."""
    return os.environ.get("STORAGE_EMULATOR_HOST") or None


def encryption_key() -> str | None:
    """Return the name of the Cloud KMS key for encrypting writes; None leaves it to the bucket."""
    return os.environ.get("TANDEM_GS_KMS_KEY") or None


@functools.cache
def client() -> Any:
    """Return Google's client, made on first use: it needs google-cloud-storage, which a lake of files does not."""
    from google.cloud import storage
    from requests.adapters import HTTPAdapter

    # Otherwise the client asks for the bucket's description in a thread, which needs a right and helps tracing only.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    made = storage.Client(project=None)  # a lake needs the right to its bucket only, not to a project
    for scheme in ("http://", "https://"):
        made._http.mount(scheme, HTTPAdapter(pool_maxsize=THREADS))
    return made
