"""List files of the lake; read manifests, ledgers, failure documents and logs from it; write small documents.

Jobs wrote these files, and a job may be faulty or foreign: sizes are bounded, and no link is followed.
"""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tandem.dag_errors import PipelineError
from tandem.stores import files as file_system
from tandem.stores import gs, s3
from tandem.stores.files import File, Unreadable

MAX_DOCUMENT = 64 << 20  # bytes; a manifest names all files of its task
STORES: dict[str, Any] = {"file": file_system, "s3": s3, "gs": gs}
log = logging.getLogger(__name__)


def store(uri: str) -> Any:
    """The module for the store that a URI names; PipelineError if there is none."""
    try:
        return STORES[uri.partition("://")[0]]
    except KeyError:
        raise PipelineError(f"{uri} is not in a lake that Tandem knows, expected {'://, '.join(STORES)}://.") from None


def is_remote(uri: str) -> bool:
    """Return True if machines other than this one can read a URI: it is in an object store."""
    return uri.startswith(("s3://", "gs://"))


def read_documents(uris: list[str]) -> list[dict[str, Any]]:
    """The JSON objects at many URIs of a lake, read concurrently, without those that are missing or can't be read."""
    client = store(uris[0]).client() if uris else None
    with ThreadPoolExecutor(s3.THREADS) as pool:
        return [found for found in pool.map(lambda uri: read_document(uri, client), uris) if found is not None]


def read_document(uri: str, client: Any = None) -> dict[str, Any] | None:
    """The JSON object at a URI, None if there is none or it cannot be read."""
    try:
        document = json.loads(read(uri, client=client))
        if not isinstance(document, dict):
            raise Unreadable(f"{uri} does not contain a JSON object")
        return document
    except FileNotFoundError:
        return None
    except (Unreadable, ValueError, RecursionError) as error:
        log.warning("A document of the job is ignored: %s (%s).", uri, error)
        return None


def read(uri: str, limit: int | None = None, client: Any = None) -> bytes:
    """The content of a document of at most `limit` bytes; raises FileNotFoundError or Unreadable."""
    content: bytes = store(uri).read(uri, limit or MAX_DOCUMENT, client)
    return content


def write(uri: str, content: bytes) -> None:
    """Write a small file at once; a server that does not answer is given up within seconds.

    Tasks wait for it, and would rather lack such a file than be late.
    """
    store(uri).write(uri, content)


def files(folder: str) -> list[File]:
    """All files below a folder, sorted by URI, without those that jobs do not see (`_…`, `.…`)."""
    return sorted(
        file
        for file in store(folder).below(folder)
        if not any(name.startswith(("_", ".")) for name in file.uri.removeprefix(folder).split("/"))
        and not file.uri.endswith("/")  # a marker of a folder
    )
