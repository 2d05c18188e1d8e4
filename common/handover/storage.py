"""Bytes at a URI (`file:///…` or `s3://…`): read, list, write, and compare-and-swap.

A `file://` URI is taken literally, without percent-decoding, as Hadoop takes it.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from common.handover import s3

Argument = TypeVar("Argument")
Value = TypeVar("Value")


class Conflict(Exception):
    """The content at the URI does not have the expected tag."""


class File(NamedTuple):
    """A file in the lake and its size in bytes; in a listing also a tag, which changes with the content.

    It is the ETag on S3, the time of modification on a file system.
    """

    uri: str
    bytes: int
    tag: str = ""


def read(uri: str) -> tuple[bytes, str]:
    """Return the bytes at a URI and their tag for `replace`; FileNotFoundError if there are none."""
    if is_s3(uri):
        return s3.read(uri)
    content = local(uri).read_bytes()
    return content, hashlib.sha256(content).hexdigest()


def blocks(file: File) -> Iterator[bytes]:
    """Yield the bytes of a file, a few MiB at a time."""
    if is_s3(file.uri):
        yield from s3.blocks(file.uri, file.bytes)
        return
    with local(file.uri).open("rb") as stream:
        while block := stream.read(s3.PART):
            yield block


def replace(uri: str, content: bytes, expected: str | None) -> None:
    """Compare-and-swap: replace the content atomically if it still has the expected tag (None: no content).

    Raises Conflict if it does not.
    """
    if is_s3(uri):
        if not s3.replace(uri, content, expected):
            raise Conflict(uri)
        return
    path = local(uri)
    with locked(path):
        try:
            tag = read(uri)[1]
        except FileNotFoundError:
            tag = None
        if tag != expected:
            raise Conflict(uri)
        write(uri, content)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Exclude other processes; the kernel releases the lock when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write(uri: str, content: bytes) -> None:
    """Write bytes atomically, over any former content."""
    if is_s3(uri):
        s3.write(uri, content)
        return
    path = local(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{uuid.uuid4().hex}")
    with hidden.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    hidden.rename(path)


@contextlib.contextmanager
def stream(uri: str) -> Iterator[IO[bytes]]:
    """Open a file to be written in order; it must not be used if the block raises."""
    if is_s3(uri):
        with s3.stream(uri) as file:
            yield file
        return
    path = local(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        yield file


def files(folder: str) -> list[File]:
    """Return all files below a folder, sorted by URI, without those that Hadoop hides (`_…`, `.…`)."""
    if is_s3(folder):
        return visible(folder, [File(f"{folder}/{name}", size, tag) for name, size, tag in s3.files(folder)])
    return sorted(files_below(str(local(folder))))


def files_below(folder: str) -> Iterator[File]:
    """Yield the files below a folder of a file system, except hidden ones; an unlistable folder is an error.

    Files that others delete concurrently are left out.
    """
    for entry in entries(folder):
        if entry.name.startswith(("_", ".")):
            continue
        if entry.is_dir():
            yield from files_below(entry.path)
            continue
        try:
            status = entry.stat()
        except FileNotFoundError:
            if not entry.is_symlink():
                continue
            status = entry.stat(follow_symlinks=False)  # broken: reading it is an error
        yield File(f"file://{entry.path}", status.st_size, str(status.st_mtime_ns))


def entries(folder: str | Path) -> list["os.DirEntry[str]"]:
    """Return the entries right below a folder of a file system; none if there is no such folder."""
    try:
        with os.scandir(folder) as iterator:
            return list(iterator)
    except FileNotFoundError:
        return []


def visible(folder: str, files: list[File]) -> list[File]:
    """Return the files below a folder that Hadoop does not hide, sorted."""
    return sorted(
        file
        for file in files
        if not any(name.startswith(("_", ".")) for name in file.uri.removeprefix(folder).split("/"))
    )


def files_of(folders: list[str]) -> dict[str, list[File]]:
    """Return the files below each of some folders, like `files`; on S3 by one listing from the first to the last."""
    if not (folders and is_s3(folders[0])):
        return {folder: files(folder) for folder in folders}
    above = "s3://" + os.path.commonpath([folder.removeprefix("s3://").rpartition("/")[0] for folder in folders])
    first, last = (folder.removeprefix(f"{above}/") for folder in (min(folders), max(folders)))
    listed = [
        File(f"{above}/{name}", size, tag) for name, size, tag in s3.files(above, f"{first}/", f"{last}/\U0010ffff")
    ]
    return {
        folder: visible(folder, [file for file in listed if file.uri.startswith(f"{folder}/")]) for folder in folders
    }


def sizes(uris: list[str]) -> dict[str, int]:
    """Return the bytes of the existing files; on S3 by one listing from the first to the last of them."""
    if uris and is_s3(uris[0]):
        folder = "s3://" + os.path.commonpath([uri.removeprefix("s3://").rpartition("/")[0] for uri in uris])
        first, last = (uri.removeprefix(f"{folder}/") for uri in (min(uris), max(uris)))
        return {f"{folder}/{name}": size for name, size, _ in s3.files(folder, first, last)}
    sizes = {}
    for uri in uris:
        with contextlib.suppress(FileNotFoundError):
            sizes[uri] = local(uri).stat().st_size
    return sizes


def folders(folder: str) -> list[str]:
    """Return the names of the folders right below a folder, sorted, without hidden ones."""
    names = s3.folders(folder) if is_s3(folder) else [entry.name for entry in entries(local(folder)) if entry.is_dir()]
    return sorted(name for name in names if not name.startswith(("_", ".")))


def delete(folder: str) -> None:
    """Delete a folder and everything below it; a missing folder is fine, one that can't be deleted is an error."""
    if is_s3(folder):
        s3.delete(folder)
        return
    while local(folder).exists():
        with contextlib.suppress(FileNotFoundError):  # others delete it, too
            shutil.rmtree(local(folder))


def delete_files(uris: list[str]) -> None:
    """Delete some files; missing ones are fine."""
    if uris and is_s3(uris[0]):
        s3.delete_files(uris)
        return
    for uri in uris:
        local(uri).unlink(missing_ok=True)


def in_parallel(function: Callable[[Argument], Value], arguments: Iterable[Argument], threads: int = 16) -> list[Value]:
    """Call a function for all arguments in several threads; return the results in the order of the arguments."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, arguments))


def is_s3(uri: str) -> bool:
    """Return True if a URI names S3, False for a file system; ValueError for any other scheme."""
    if not uri.startswith(("s3://", "file:///")):
        raise ValueError(f"Unsupported URI '{uri}': expected s3://BUCKET/… or file:///….")
    return uri.startswith("s3://")


def local(uri: str) -> Path:
    """Return the path of a `file://` URI."""
    return Path(uri.removeprefix("file://"))
