"""Reading of an object in ranges of bytes, as one content."""

from collections.abc import Callable, Iterator

from common.errors import TaskError


def unchanged_blocks(
    read: Callable[[str, int, int], tuple[bytes, str]], uri: str, size: int, step: int
) -> Iterator[bytes]:
    """Yield the bytes of an object of this size, some at a time; TaskError if it is replaced while being read.

    `read` returns the bytes from a first to a last one, and the object's tag.
    """
    first_tag = None
    for start in range(0, size, step):
        block, tag = read(uri, start, min(start + step, size) - 1)
        if first_tag not in (None, tag):
            raise TaskError(f"{uri} was replaced while it was read; rerun the task.")
        first_tag = tag
        yield block
