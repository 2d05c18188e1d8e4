"""Lines of a file in blocks: it is unpacked once, and the lines of a block are views of one buffer."""

from collections.abc import Iterator, Sequence
from datetime import date
from functools import cached_property

import numpy as np
import pyarrow as pa

from common.handover.storage import File
from common.ingestion import deliveries, records
from common.ingestion.deliveries import Line

BLOCK = 16 << 20  # bytes
MAX_LINES = 200_000  # of a block


class Block:
    """Consecutive lines of a file, from the number of the first; or a single one that is too long, of `size` bytes."""

    def __init__(self, first: int, content: bytes, size: int | None = None) -> None:
        self.first = first
        self.content = content
        self.size = size
        ends = np.flatnonzero(np.frombuffer(content, np.uint8) == 10)
        self.offsets = np.zeros(len(ends) + 1, np.int32)
        self.offsets[1:] = ends + 1

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, position: int) -> Line:
        content = self.content[self.offsets[position] : self.offsets[position + 1] - 1]
        return Line(self.first + position, self.size or len(content), content)

    @cached_property
    def texts(self) -> pa.Array | None:
        """The lines as texts that include their line feeds, without a copy; None if one is not UTF-8."""
        buffers = [None, pa.py_buffer(self.offsets), pa.py_buffer(self.content)]
        texts = pa.Array.from_buffers(pa.string(), len(self), buffers)
        try:
            texts.validate(full=True)
        except pa.ArrowInvalid:
            return None
        return texts

    def table(self, without: Sequence[int] = ()) -> pa.Table:
        """Return `_position` and `_line` of lines that are UTF-8, without those at some positions."""
        table = pa.table({"_position": np.arange(len(self)), "_line": self.texts})
        if not without:
            return table
        kept = np.ones(len(self), bool)
        kept[without] = False
        return table.filter(pa.array(kept))


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

    def table(self, unsure: Sequence[int]) -> pa.Table:
        """Return the lines like `Block.table`, with `_file`, `_number`, `_arrival`, and false as `_sure` of some."""
        sure = np.ones(len(self.block), bool)
        sure[unsure] = False
        table = self.block.table()
        more = {"_file": self.files, "_number": self.numbers, "_arrival": self.arrivals, "_sure": sure}
        for name, values in more.items():
            table = table.append_column(name, pa.array(values))
        return table


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
