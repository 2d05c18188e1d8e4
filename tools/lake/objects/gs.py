"""Versions and uploads of objects on Google's storage; a version is a generation."""

from collections.abc import Iterator
from typing import IO

from common.handover.stores import gs


def former_versions(folder: str) -> Iterator[tuple[str, int, float, str]]:
    """Yield names below a folder, bytes, time of writing and generation of former versions, if the bucket keeps any."""
    bucket, prefix = gs.bucket_and_name(f"{folder}/")
    fields = "items(name,size,generation,timeCreated,timeDeleted),nextPageToken"
    for each in gs.client().list_blobs(bucket, prefix=prefix, versions="true", fields=fields, **gs.options()):
        if each.time_deleted:
            yield each.name.removeprefix(prefix), each.size, each.time_created.timestamp(), str(each.generation)


def download_version(uri: str, version: str, file: IO[bytes]) -> None:
    bucket, name = gs.bucket_and_name(uri)
    blob = gs.client().bucket(bucket).blob(name, generation=int(version))
    blob.download_to_file(file, raw_download=True, **gs.options())


def delete_version(uri: str, version: str) -> None:
    bucket, name = gs.bucket_and_name(uri)
    gs.client().bucket(bucket).blob(name, generation=int(version)).delete(**gs.options())


def abort_uploads(folder: str, latest: float) -> None:
    """Do nothing: Google lists no unfinished uploads, and deletes them after a week."""


def tag_of(uri: str) -> str:
    """Return the generation of an object; FileNotFoundError if there is none."""
    from google.api_core.exceptions import NotFound

    blob = gs.blob(uri)
    try:
        blob.reload(**gs.options())
    except NotFound:
        raise FileNotFoundError(uri) from None
    return str(blob.generation)


def replace(uri: str, file: IO[bytes], tag: str) -> str | None:
    """Replace an object by a file; return its new generation, None if it had another one than expected."""
    from google.api_core.exceptions import PreconditionFailed

    blob = gs.blob(uri)
    try:
        blob.upload_from_file(file, rewind=True, if_generation_match=int(tag), **gs.options())
    except PreconditionFailed:
        return None
    return str(blob.generation)
