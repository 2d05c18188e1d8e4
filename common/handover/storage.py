"""Bytes at a URI (`file:///…`, `s3://…` or `gs://…`): read, list, write, and compare-and-swap."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import IO, NamedTuple, TypeVar

from common.errors import TaskError
from common.handover.stores import Store, gs, s3
from common.handover.stores import files as file_system
from common.handover.stores.files import local as local
from common.handover.stores.files import locked as locked

Argument = TypeVar("Argument")
Value = TypeVar("Value")

STORES: dict[str, Store] = {"file:///": file_system, "s3://": s3, "gs://": gs}


class Conflict(Exception):
    """The content at the URI does not have the expected tag."""


class File(NamedTuple):
    """A file in the lake and its size in bytes; in a listing also a tag, which changes with the content.

    It is the ETag on S3, the generation on Google's storage, the time of modification on a file system.
    """

    uri: str
    bytes: int
    tag: str = ""


def store(uri: str) -> Store:
    """Return the store of a URI; ValueError for a scheme that is not supported."""
    for start, found in STORES.items():
        if uri.startswith(start):
            return found
    raise ValueError(f"Unsupported URI '{uri}': expected s3://BUCKET/…, gs://BUCKET/… or file:///….")


def is_remote(uri: str) -> bool:
    """Return True if a URI names an object store, False for a file system; ValueError for any other scheme."""
    return store(uri) is not file_system


def read(uri: str) -> tuple[bytes, str]:
    """Return the bytes at a URI and their tag for `replace`; FileNotFoundError if there are none."""
    return store(uri).read(uri)


def blocks(file: File) -> Iterator[bytes]:
    """Yield the bytes of a file, a few MiB at a time; TaskError if an object is replaced while it is read."""
    return store(file.uri).blocks(file.uri, file.bytes)


def download(uri: str, path: str) -> None:
    """Copy a file of any size to a path of this machine."""
    store(uri).download(uri, path)


def replace(uri: str, content: bytes, expected: str | None) -> None:
    """Compare-and-swap: replace the content atomically if it still has the expected tag (None: no content).

    Raises Conflict if it does not.
    """
    if not store(uri).replace(uri, content, expected):
        raise Conflict(uri)


def write(uri: str, content: bytes) -> None:
    """Write bytes atomically, over any former content."""
    store(uri).write(uri, content)


def stream(uri: str) -> AbstractContextManager[IO[bytes]]:
    """Open a file to be written in order; it must not be used if the block raises."""
    return store(uri).stream(uri)


def files(folder: str) -> list[File]:
    """Return all files below a folder, sorted by URI, without those that Hadoop hides (`_…`, `.…`)."""
    return visible(folder, [File(f"{folder}/{name}", size, tag) for name, size, tag in store(folder).files(folder)])


def visible(folder: str, files: list[File]) -> list[File]:
    """Return the files below a folder that Hadoop does not hide, sorted."""
    return sorted(
        file
        for file in files
        if not any(name.startswith(("_", ".")) for name in file.uri.removeprefix(folder).split("/"))
    )


def entries(folder: str) -> Iterator[tuple[str, int, float]]:
    """Yield the names of all files below a folder, hidden ones too, with bytes and time of change since 1970.

    Objects that stand for folders are among them; a folder that can't be listed is an error.
    """
    return store(folder).entries(folder)


def files_of(folders: list[str]) -> dict[str, list[File]]:
    """Return the files below each of some folders, like `files`; of objects by one listing from first to last."""
    if not (folders and is_remote(folders[0])):
        return {folder: files(folder) for folder in folders}
    above = common_folder(folders)
    first, last = (folder.removeprefix(f"{above}/") for folder in (min(folders), max(folders)))
    listed = [
        File(f"{above}/{name}", size, tag)
        for name, size, tag in store(above).files(above, f"{first}/", f"{last}/\U0010ffff")
    ]
    return {
        folder: visible(folder, [file for file in listed if file.uri.startswith(f"{folder}/")]) for folder in folders
    }


def sizes(uris: list[str]) -> dict[str, int]:
    """Return the bytes of the existing files; of objects by one listing from first to last."""
    if uris and is_remote(uris[0]):
        folder = common_folder(uris)
        first, last = (uri.removeprefix(f"{folder}/") for uri in (min(uris), max(uris)))
        return {f"{folder}/{name}": size for name, size, _ in store(folder).files(folder, first, last)}
    sizes = {}
    for uri in uris:
        with contextlib.suppress(FileNotFoundError):
            sizes[uri] = local(uri).stat().st_size
    return sizes


def common_folder(uris: list[str]) -> str:
    """Return the lowest folder with all of some objects of one bucket."""
    scheme = uris[0].partition("//")[0]
    return f"{scheme}//" + os.path.commonpath([uri.partition("//")[2].rpartition("/")[0] for uri in uris])


def folders(folder: str) -> list[str]:
    """Return the names of the folders right below a folder, sorted, without hidden ones."""
    return sorted(name for name in store(folder).folders(folder) if not name.startswith(("_", ".")))


def delete(folder: str) -> None:
    """Delete a folder and everything below it; a missing folder is fine, one that can't be deleted is an error."""
    store(folder).delete(folder)


def delete_files(uris: list[str]) -> None:
    """Delete some files of one store; missing ones are fine."""
    if uris:
        store(uris[0]).delete_files(uris)


def abort_uploads(folder: str, pattern: str, latest: int) -> int:
    """Abort unfinished uploads below a folder, whose parts may be stored and hidden; return their number.

    It selects names relative to the folder that begin with the pattern, a dash and a number up to `latest`.
    """
    return store(folder).abort_uploads(folder, pattern, latest)


def explain(error: BaseException, lake: str) -> TaskError | None:
    """Return an error with a remedy for one of the store's clients, if the store or the connection is the cause."""
    return store(lake).explain(error, lake)


def encryption_key(uri: str) -> str | None:
    """Return the key that the environment names for encrypting writes; None leaves it to the bucket."""
    return store(uri).encryption_key()


def in_parallel(function: Callable[[Argument], Value], arguments: Iterable[Argument], threads: int = 16) -> list[Value]:
    """Call a function for all arguments in several threads; return the results in the order of the arguments."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, arguments))
