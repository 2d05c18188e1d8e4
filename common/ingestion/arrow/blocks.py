"""Lines of a file in blocks: it is unpacked once, and the lines of a block are views of one buffer."""

import codecs
from collections.abc import Iterator, Sequence
from datetime import date

import numpy as np
import pyarrow as pa

from common.handover.storage import File
from common.ingestion import deliveries, records
from common.ingestion.deliveries import Line

BLOCK = 16 << 20  # bytes
MAX_LINES = 200_000  # of a block


class Block:
    """Consecutive lines of a file, from the number of the first; or a single one that is too long, of `size` bytes."""

    def __init__(self, first: int, content: bytes, size: int | None = None, offsets: np.ndarray | None = None) -> None:
        self.first = first
        self.content = content
        self.size = size
        if offsets is None:
            offsets = np.append(0, np.flatnonzero(np.frombuffer(content, np.uint8) == 10) + 1)
        self.offsets = offsets.astype(np.int32)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, position: int) -> Line:
        content = self.content[self.offsets[position] : self.offsets[position + 1] - 1]
        return Line(self.first + position, self.size or len(content), content)

    def position(self, byte: int) -> int:
        """Return the position of the line that has a byte."""
        return int(np.searchsorted(self.offsets, byte, "right")) - 1

    def only(self, positions: np.ndarray) -> "Block":
        """Return some lines, in their order, as a block."""
        runs = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)
        parts = [self.content[self.offsets[run[0]] : self.offsets[run[-1] + 1]] for run in runs if len(run)]
        offsets = np.append(0, np.cumsum(np.diff(self.offsets)[positions], dtype=np.int32))
        return Block(1, b"".join(parts), offsets=offsets)

    @property
    def texts(self) -> pa.Array:
        """The lines as texts that include their line feeds, without a copy."""
        return pa.Array.from_buffers(
            pa.string(), len(self), [None, pa.py_buffer(self.offsets), pa.py_buffer(self.content)]
        )

    def not_utf8(self) -> Iterator[int]:
        """Yield the positions of the lines that are not UTF-8."""
        start = 0
        while start < len(self.content):
            try:
                codecs.utf_8_decode(memoryview(self.content)[start:], "strict", True)
                return
            except UnicodeDecodeError as error:
                yield (position := self.position(start + error.start))
                start = int(self.offsets[position + 1])


class Chunk:
    """Lines of one or more files as a block, with the number of the file, the number and the arrival of each line."""

    def __init__(self, parts: Sequence[tuple[int, date, Block]]) -> None:
        blocks = [block for _, _, block in parts]
        sizes = [len(block) for block in blocks]
        self.block = blocks[0] if len(blocks) == 1 else Block(1, b"".join(block.content for block in blocks))
        self.files = np.repeat([number for number, _, _ in parts], sizes)
        self.arrivals = np.repeat(np.array([arrival for _, arrival, _ in parts], "datetime64[D]"), sizes)
        self.numbers = np.concatenate([np.arange(block.first, block.first + len(block)) for block in blocks])

    def line(self, position: int) -> tuple[int, date, Line]:
        """Return a line with its file and arrival."""
        line = self.block[position]._replace(number=int(self.numbers[position]))
        return int(self.files[position]), self.arrivals[position].item(), line

    def of_lines(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Return the file, the number and the arrival of lines."""
        columns = {"__file": self.files, "__number": self.numbers, "__arrival": self.arrivals}
        return {name: values[positions] for name, values in columns.items()}


def blocks(file: File) -> Iterator[Block]:
    """Yield the lines of a file like `deliveries.lines`; Unreadable if it is corrupt."""
    for block in large_blocks(file):
        for first in range(0, len(block), MAX_LINES) if len(block) > MAX_LINES else ():
            last = min(first + MAX_LINES, len(block))
            yield Block(block.first + first, block.content[block.offsets[first] : block.offsets[last]])
        if len(block) <= MAX_LINES:
            yield block


def large_blocks(file: File) -> Iterator[Block]:
    """Yield the lines of a file in blocks of about BLOCK bytes."""
    held: list[bytes] = []
    begun = bytearray()  # the unfinished line, and its size
    number, waiting, size, short = 1, 0, 0, 0
    for piece in deliveries.unpacked(file):
        start, end = 0, piece.rfind(b"\n") + 1
        if end and size:
            start = piece.find(b"\n") + 1
            size += start - 1
            begun += piece[: min(start - 1, records.MAX_RECORD + 1 - len(begun))]
            too_long = size > records.MAX_RECORD
            if too_long and held:
                yield (block := Block(number, b"".join(held)))
                number, held, waiting = number + len(block), [], 0
            if too_long:
                yield Block(number, bytes(begun[: records.MAX_KEPT]) + b"\n", size)
                number += 1
            else:
                held.append(bytes(begun) + b"\n")
                waiting, short = waiting + size, short + size
            begun, size = bytearray(), 0
        if start < end:
            held.append(piece[start:end])
            waiting, short = waiting + end - start, short + end - start
        size += len(piece) - end
        begun += piece[end : end + records.MAX_RECORD + 1 - len(begun)]
        deliveries.check_size(file, size, short)
        if waiting >= BLOCK:
            yield (block := Block(number, b"".join(held)))
            number, held, waiting = number + len(block), [], 0
    last_too_long = size > records.MAX_RECORD + 1
    if size and not last_too_long:
        held.append(bytes(begun) + b"\n")
    if held:
        yield (block := Block(number, b"".join(held)))
        number += len(block)
    if last_too_long:
        yield Block(number, bytes(begun[: records.MAX_KEPT]) + b"\n", size)
