"""Bytes at a `file://` URI, on a file system that several machines may share.

The URI is taken literally, without percent-decoding, as Hadoop takes it.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from common.errors import TaskError

BLOCK = 8 << 20


def read(uri: str) -> tuple[bytes, str]:
    """Return the bytes at a URI and their tag; FileNotFoundError if there are none."""
    content = local(uri).read_bytes()
    return content, hashlib.sha256(content).hexdigest()


def blocks(uri: str, size: int) -> Iterator[bytes]:
    """Yield the bytes of a file, a few MiB at a time."""
    with local(uri).open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def replace(uri: str, content: bytes, expected: str | None) -> bool:
    """Compare-and-swap: write if the content has the expected tag (None: no content); False if it does not."""
    with locked(local(uri)):
        try:
            tag = read(uri)[1]
        except FileNotFoundError:
            tag = None
        if tag != expected:
            return False
        write(uri, content)
        return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Exclude other processes; the kernel releases the lock when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write(uri: str, content: bytes) -> None:
    """Write bytes atomically, over any former content."""
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
    path = local(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        yield file


def files(folder: str, first: str = "", last: str = "\U0010ffff") -> Iterator[tuple[str, int, str]]:
    """Yield names of files below a folder, relative to it, from first to last, with bytes and time of modification.

    Folders that Hadoop hides are left out, and files that others delete concurrently. An unlistable folder is an error.
    """
    root = local(folder)
    for path, status in walk(root):
        name = path.removeprefix(f"{root}/")
        if first <= name <= last:
            yield name, status.st_size, str(status.st_mtime_ns)


def walk(folder: str | Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the paths of files below a folder, with their status."""
    for entry in scan(folder):
        if entry.name.startswith(("_", ".")):
            continue
        if entry.is_dir():
            yield from walk(entry.path)
            continue
        try:
            status = entry.stat()
        except FileNotFoundError:
            if not entry.is_symlink():
                continue
            status = entry.stat(follow_symlinks=False)  # broken: reading it is an error
        yield entry.path, status


def scan(folder: str | Path) -> list["os.DirEntry[str]"]:
    """Return the entries right below a folder; none if there is no such folder."""
    try:
        with os.scandir(folder) as iterator:
            return list(iterator)
    except FileNotFoundError:
        return []


def entries(folder: str) -> Iterator[tuple[str, int, float]]:
    """Yield all files below a folder, relative to it, with bytes and time of change; links are not followed."""
    root = local(folder)
    for parent, _, names in os.walk(root, onerror=raise_unless_gone):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # deleted concurrently
                status = os.lstat(f"{parent}/{name}")
                yield f"{parent}/{name}".removeprefix(f"{root}/"), status.st_size, status.st_mtime


def raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def folders(folder: str) -> list[str]:
    """Return the names of the folders right below a folder."""
    return [entry.name for entry in scan(local(folder)) if entry.is_dir()]


def delete(folder: str) -> None:
    """Delete a folder and everything below it; a missing folder is fine, one that can't be deleted is an error."""
    while local(folder).exists():
        with contextlib.suppress(FileNotFoundError):  # others delete it, too
            shutil.rmtree(local(folder))


def delete_files(uris: list[str]) -> None:
    """Delete some files; missing ones are fine."""
    for uri in uris:
        local(uri).unlink(missing_ok=True)


def download(uri: str, path: str) -> None:
    """Copy a file to a path."""
    shutil.copyfile(local(uri), path)


def abort_uploads(folder: str, pattern: str, latest: int) -> int:
    """Return 0: an unfinished file is in the folder of its attempt, where `make retention` deletes it."""
    return 0


def explain(error: BaseException, lake: str) -> TaskError | None:
    """Return None: an error of the system names its file and says enough."""
    return None


def encryption_key() -> str | None:
    """Return None: a file system encrypts by itself, if at all."""
    return None


def local(uri: str) -> Path:
    """Return the path of a `file://` URI."""
    return Path(uri.removeprefix("file://"))
