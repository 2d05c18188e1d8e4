"""Files of a file system. No link is followed, because a job may have made it."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast


class File(NamedTuple):
    """A file of the lake: URI, bytes, tag, seconds of the last change.

    The tag is the ETag on S3, the generation on Google Cloud Storage, and st_mtime_ns in a file system.
    """

    uri: str
    bytes: int
    tag: str
    changed: float


class Unreadable(Exception):
    """A path is not a regular file, or the file is too large."""


def client() -> None:
    """None: a file system needs no client."""


def read(uri: str, limit: int, client: None = None) -> bytes:
    """The content of a file of at most `limit` bytes."""
    return read_file(Path(uri.removeprefix("file://")), limit)


def read_file(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes; raises FileNotFoundError or Unreadable.

    No link is followed, so a job cannot make this read other files of the machine; a pipe does not block.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise Unreadable(f"{path} cannot be opened as a file: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Unreadable(f"{path} is not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return bounded(file, path, limit)
    finally:
        os.close(descriptor)


def bounded(file: Any, name: Any, limit: int) -> bytes:
    """The whole content of a file; Unreadable if it has more than `limit` bytes."""
    content: bytes = file.read(limit + 1)
    if len(content) > limit:
        raise Unreadable(f"{name} has more than {limit} bytes")
    return content + cast(bytes, file.read())  # empty, but raises an error for a response that was cut off


def write(uri: str, content: bytes) -> None:
    """Write a file under a temporary name, then rename it."""
    path = Path(uri.removeprefix("file://"))
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.rename(path)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each for the users of the one above: jobs, perhaps others, write there too."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    above = folder.parent.stat()
    folder.chmod(stat.S_IMODE(above.st_mode))
    with contextlib.suppress(PermissionError):
        os.chown(folder, above.st_uid, above.st_gid)


def below(folder: str) -> Iterator[File]:
    """The files below a folder; none without the folder."""
    for path, _, names in os.walk(folder.removeprefix("file://"), followlinks=True):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # deleted concurrently
                status = os.stat(f"{path}/{name}")
                yield File(f"file://{path}/{name}", status.st_size, str(status.st_mtime_ns), status.st_mtime)
