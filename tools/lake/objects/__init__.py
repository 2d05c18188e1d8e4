"""Objects of a lake that no job needs: former versions, unfinished uploads; a module per kind of object store."""

from collections.abc import Iterator
from typing import IO, Protocol

from tools.lake.objects import gs, s3


class Objects(Protocol):
    """Functions of each module."""

    def former_versions(self, folder: str) -> Iterator[tuple[str, int, float, str]]:
        """Yield names below a folder, bytes, time of change and version of each object that is not the current one."""

    def download_version(self, uri: str, version: str, file: IO[bytes]) -> None: ...

    def delete_version(self, uri: str, version: str) -> None: ...

    def abort_uploads(self, folder: str, latest: float) -> None:
        """Abort uploads below a folder that began until a time; their parts are stored and in no listing."""

    def tag_of(self, uri: str) -> str:
        """Return the tag of an object, as listings have it; FileNotFoundError if there is none."""

    def replace(self, uri: str, file: IO[bytes], tag: str) -> str | None:
        """Replace an object that has a tag by a file of any size; return its new tag, None if it does not have it."""


def of(lake: str) -> Objects | None:
    """Return the functions for the objects of a lake; None if it is not in an object store."""
    kinds: dict[str, Objects] = {"s3": s3, "gs": gs}
    return kinds.get(lake.partition("://")[0])
