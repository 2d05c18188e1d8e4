"""Cut off the bytes behind the last segment of each shared library in a folder: symbols, which no program loads."""

import struct
import sys
from pathlib import Path

SEGMENT = 56  # bytes of a segment's entry in a 64-bit ELF file


def cut(file: Path) -> None:
    """Truncate a library behind its last segment, and remove its table of sections, which only linkers read."""
    with file.open("r+b") as library:
        header = library.read(64)
        if header[:6] != b"\x7fELF\x02\x01":  # 64 bits, least byte first
            return
        (start,), (count,) = struct.unpack_from("<Q", header, 32), struct.unpack_from("<H", header, 56)
        library.seek(start)
        entries = [library.read(SEGMENT) for _ in range(count)]
        ends = [sum(struct.unpack_from("<Q16xQ", entry, 8)) for entry in entries]
        library.truncate(max(ends))
        for place, length in ((40, 8), (60, 4)):  # of the table: its place, its length and its names
            library.seek(place)
            library.write(bytes(length))


for path in Path(sys.argv[1]).rglob("*"):
    if path.is_file() and not path.is_symlink():
        cut(path)
