"""Kinds of stores that a lake can be in, a module each, with the functions of `Store`."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import IO, Protocol

from common.errors import TaskError


class Store(Protocol):
    """Functions of each module; `common/handover/storage.py` calls them, and says more about those of the same name."""

    def read(self, uri: str) -> tuple[bytes, str]: ...

    def blocks(self, uri: str, size: int) -> Iterator[bytes]: ...

    def replace(self, uri: str, content: bytes, expected: str | None) -> bool:
        """Return False, and change nothing, if the content does not have the expected tag."""

    def write(self, uri: str, content: bytes) -> None: ...

    def stream(self, uri: str) -> AbstractContextManager[IO[bytes]]: ...

    def files(self, folder: str, first: str = "", last: str = "\U0010ffff") -> Iterator[tuple[str, int, str]]:
        """Yield names relative to the folder, from first to last, with bytes and tag."""

    def entries(self, folder: str) -> Iterator[tuple[str, int, float]]:
        """Yield names relative to the folder, hidden ones too, with bytes and time of change in seconds since 1970."""

    def folders(self, folder: str) -> list[str]: ...

    def delete(self, folder: str) -> None: ...

    def delete_files(self, uris: list[str]) -> None: ...

    def download(self, uri: str, path: str) -> None: ...

    def abort_uploads(self, folder: str, pattern: str, latest: int) -> int: ...

    def explain(self, error: BaseException, lake: str) -> TaskError | None: ...

    def encryption_key(self) -> str | None: ...
