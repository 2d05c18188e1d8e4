"""Search content for people and copy it without them: lines of JSON, Parquet files, JSON documents, pages."""

import ast
import contextlib
import gzip
import html
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard

from common.handover import manifest
from common.ingestion import deliveries
from common.ingestion.suppression import People

Named = Counter[str]  # the number of findings by hash of a person
BATCH = 64 * 1024  # rows
PIECE = 16 << 20  # bytes of a line that are searched together
OVERLAP = 4096  # bytes, longer than any ID and the name of its field
FORGOTTEN = "[forgotten]"
SHOWN = 40  # letters of a key in reports
QUOTED = r"(?<!\w)(?:'[^']+'|\"[^\"]+\")(?!\w)"
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
ZSTD_STEP = 1024  # packed bytes per step: they unpack to up to 32 MiB
WORD = r"[^\s\"',;:{}()<>|=&?/\[\]\\]+"
SENTENCES = ("sentence", "message", "reason", "summary", "warnings")  # fields of documents
# Marks in pages, by which people are found. Data in a page is escaped, so it cannot contain them.
ABOUT_PERSON = r"""<(\w+) class="person" data-user="([^"]*)">.*?</\1><!--/person-->"""
MARKED_TEXT = r"""(<\w+ class="(line|sentence)">)([^<]*)"""


class Unreadable(Exception):
    """A file cannot be read to its end, so the people in it are unknown."""


# Lines of JSON, gzipped or not


def records(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield numbered records of a file with their line ends; a record over 16 MiB comes in pieces of one number.

    A line is split where a carriage return ends a record, as Spark does; JSON may have one between two fields.
    """
    number, begun = 0, False
    try:
        while piece := file.readline(PIECE):
            ended = piece.endswith(b"\n")
            if begun or not (ended or len(piece) < PIECE) or b"\r" not in piece.rstrip(b"\r\n") or is_json(piece):
                yield number, piece
                number += ended
            else:
                for record in re.findall(rb"[^\r]+(?:\r\n|\r|\Z)|\r\n|\r", piece):
                    yield number, record
                    number += 1
            begun = not ended
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Unreadable(str(error)) from None


def is_json(line: bytes) -> bool:
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(line)
        return True
    return False


def compression(file: io.BufferedReader) -> str:
    """Return the compression of a file by its first bytes: gzip, zstd or none."""
    first = file.peek(4)[:4]
    return "zstd" if first == ZSTD else "gzip" if first[:2] == GZIP else "none"


@contextlib.contextmanager
def unpacked(file: io.BufferedReader) -> Iterator[Any]:
    """Open a file, decompressed if it is packed."""
    kind = compression(file)
    if kind == "gzip":
        with gzip.GzipFile(fileobj=file) as content:
            yield content
    elif kind == "zstd":
        yield io.BufferedReader(Zstd(file), PIECE)
    else:
        yield file


@contextlib.contextmanager
def packed(target: IO[bytes], kind: str) -> Iterator[Any]:
    """Open a file for writing with a compression."""
    if kind == "none":
        yield target
        return
    sink: Any = gzip.GzipFile("", "wb", 6, target, mtime=0) if kind == "gzip" else None
    with sink or zstandard.ZstdCompressor().stream_writer(target, closefd=False) as content:
        yield content


class Zstd(io.RawIOBase):
    """The content of a file that zstd packed; Unreadable if it is corrupt or cut off, which zstandard ignores."""

    def __init__(self, file: IO[bytes]) -> None:
        self.pieces = deliveries.zstd_pieces(iter(lambda: file.read(ZSTD_STEP), b""))
        self.left = b""  # unpacked

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            while not self.left and (piece := next(self.pieces, None)) is not None:
                self.left = piece
        except deliveries.Unreadable as error:
            cause = error.__cause__
            raise Unreadable(f"corrupt zstd ({cause})" if cause else str(error)) from None
        count = min(len(buffer), len(self.left))
        buffer[:count], self.left = self.left[:count], self.left[count:]
        return count


def find_lines(file: io.BufferedReader, people: People) -> tuple[Named, set[int]]:
    """Return the number of lines per person in a file, and the positions of these lines."""
    named: dict[int, set[str]] = {}
    last, end = -1, b""
    with unpacked(file) as content:
        for number, piece in records(content):
            if found := people.named_in_line(end + piece if number == last else piece):
                named.setdefault(number, set()).update(found)
            last, end = number, piece[-OVERLAP:]
    return Counter(digest for found in named.values() for digest in found), set(named)


def copy_lines(file: io.BufferedReader, target: IO[bytes], dropped: set[int]) -> None:
    """Copy a file without some lines, the others byte for byte, packed as it was."""
    with packed(target, compression(file)) as sink, unpacked(file) as content:
        for number, piece in records(content):
            if number not in dropped:
                sink.write(piece)


# Parquet


def user_columns(schema: pa.Schema) -> list[str]:
    """Return the columns of user IDs; contracts agree on their names."""
    return [name for name in schema.names if name == "user_id" or name.endswith("_user_id")]


def text_columns(schema: pa.Schema) -> list[str]:
    """Return the column of a quarantine with delivered lines."""
    return ["content"] if {"content", "reason"} <= set(schema.names) else []


def count_parquet(file: Any, people: People) -> Named:
    """Return the number of rows per person in a file; statistics rule out row groups without any."""
    found: Named = Counter()
    with parquet(file) as source:
        users, texts = user_columns(source.schema_arrow), text_columns(source.schema_arrow)
        for group in range(source.metadata.num_row_groups if users or texts else 0):
            if texts or may_hold(source.metadata.row_group(group), users, people):
                for batch in source.iter_batches(BATCH, row_groups=[group], columns=users + texts, use_threads=False):
                    found += find_rows(batch, users, texts, people)[1]
    return found


def copy_parquet(file: Any, target: IO[bytes], people: People) -> Counter[str]:
    """Copy a file without the rows that name people, the others in order; return the number of dropped rows by arrival.

    Rows without a day of arrival are counted under the empty text.
    """
    dropped = Counter[str]()
    with (
        parquet(file) as source,
        pa.PythonFile(target, mode="w") as sink,
        pq.ParquetWriter(sink, source.schema_arrow, compression="zstd") as writer,
    ):
        users, texts = user_columns(source.schema_arrow), text_columns(source.schema_arrow)
        for batch in source.iter_batches(BATCH, use_threads=False):
            named = find_rows(batch, users, texts, people)[0]
            writer.write_batch(batch.filter(pc.invert(named)))
            dropped.update(arrivals_of(batch.filter(named)))
    return dropped


def arrivals_of(rows: pa.RecordBatch) -> list[str]:
    """Return the day of arrival of each row, the empty text if it is not known."""
    days = rows["arrival"].to_pylist() if "arrival" in rows.schema.names else [None] * rows.num_rows
    return [str(day or "") for day in days]


@contextlib.contextmanager
def parquet(file: Any) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(file, pre_buffer=False) as source:
            yield source
    except pa.ArrowInvalid as error:
        raise Unreadable(str(error)) from None


def is_parquet(file: Any) -> bool:
    """True if a file begins as Parquet files do."""
    magic = bytes(file.read(4))
    file.seek(0)
    return magic == b"PAR1"


def may_hold(group: pq.RowGroupMetaData, users: list[str], people: People) -> bool:
    """Return True if a person's ID is within the recorded range of a column, or no range is recorded."""
    if people.known is None:
        return True
    columns = [group.column(position) for position in range(group.num_columns)]
    for statistics in (column.statistics for column in columns if column.path_in_schema in users):
        if statistics is None or not statistics.has_min_max or not isinstance(statistics.min, str):
            return True
        least, greatest = statistics.min.encode(), statistics.max.encode()
        if any(least <= user_id.encode("utf-8", "surrogatepass") <= greatest for user_id in people.known):
            return True
    return False


def find_rows(batch: pa.RecordBatch, users: list[str], texts: list[str], people: People) -> tuple[pa.Array, Named]:
    """Return a mask of the rows that name people, and the number of rows per person."""
    mask = pa.repeat(pa.scalar(False), batch.num_rows)
    found: Named = Counter()
    for name in users + texts:
        encoded = batch[name].cast(pa.string()).dictionary_encode()
        digests = [named_in_value(value, name in texts, people) for value in encoded.dictionary.to_pylist()]
        hit = pc.fill_null(pa.array([bool(each) for each in digests], pa.bool_()).take(encoded.indices), False)
        new = pc.and_not(hit, mask)
        for entry in pc.value_counts(encoded.indices.filter(new)).to_pylist():
            for digest in digests[entry["values"]]:
                found[digest] += entry["counts"]
        mask = pc.or_(mask, hit)
    return mask, found


def named_in_value(value: str | None, is_line: bool, people: People) -> set[str]:
    if value is None:
        return set()
    if is_line:
        return people.named_in_quarantine(value)
    digest = people.find(value)
    return {digest} if digest else set()


# JSON documents and pages


class Redaction:
    """Texts of reports without some people, and the number of findings per person."""

    def __init__(self, people: People) -> None:
        self.people = people
        self.found: Named = Counter()

    def value(self, text: str) -> str:
        """Return the text, unless it is an ID or the beginning of one."""
        digest = find_shown(text, self.people)
        self.found.update([digest] if digest else [])
        return FORGOTTEN if digest else text

    def line(self, text: str) -> str:
        """Return a line in quarantine, unless it names a person."""
        digests = self.people.named_in_quarantine(text)
        self.found.update(digests)
        return FORGOTTEN if digests else text

    def sentence(self, text: str) -> str:
        """Return a sentence without IDs."""
        for user_id, digest in (self.people.known or {}).items():
            text, count = re.subn(rf"(?<![\w.@+-]){re.escape(user_id)}(?![\w@+-]|\.\w)", FORGOTTEN, text)
            self.found[digest] += count
        return re.sub(WORD, self.word, re.sub(QUOTED, self.word, text))

    def word(self, match: re.Match[str]) -> str:
        bare = match[0].rstrip(".!?")
        return match[0] if self.value(bare) is bare else match[0].replace(bare, FORGOTTEN)

    def document(self, node: Any, name: str = "", personal: bool = False) -> Any:
        """Return a node of a document without people in its metrics, sentences and lines in quarantine."""
        if isinstance(node, dict):
            return {key: self.document(each, key, personal or key == "metrics") for key, each in node.items()}
        if isinstance(node, list):
            return [self.document(each, name, personal) for each in node]
        if not isinstance(node, str):
            return node
        if name in SENTENCES:
            return self.sentence(node)
        return self.line(node) if name == "content" else self.value(node) if personal else node

    def page(self, text: str) -> str:
        """Return a page without examples of people, and without people in lines in quarantine and in sentences."""
        text = re.sub(ABOUT_PERSON, self.example, text, flags=re.DOTALL)
        return re.sub(MARKED_TEXT, self.marked_text, text)

    def example(self, match: re.Match[str]) -> str:
        return match[0] if self.value(user := html.unescape(match[2])) is user else FORGOTTEN

    def marked_text(self, match: re.Match[str]) -> str:
        text = html.unescape(match[3])
        return match[1] + html.escape(self.line(text) if match[2] == "line" else self.sentence(text))


def redact(content: bytes, people: People, *, is_page: bool = False) -> tuple[bytes, Named]:
    """Return a JSON document or a page without people, and the findings; Unreadable if it is neither."""
    redaction = Redaction(people)
    if is_page:
        try:
            return redaction.page(content.decode()).encode(), +redaction.found
        except UnicodeDecodeError as error:
            raise Unreadable(str(error)) from None
    return manifest.to_json(redaction.document(parse_json(content))), +redaction.found


def find_shown(text: str, people: People) -> str | None:
    """Return the hash of the person in a text of a report: an ID, quoted or not, or its first letters and "…"."""
    bare = text.removesuffix("…")
    if bare[:1] in ("'", '"'):
        with contextlib.suppress(ValueError, SyntaxError):
            bare = str(ast.literal_eval(bare))
    matches = [user_id for user_id in people.known or () if user_id[:SHOWN] == bare] if len(bare) == SHOWN else []
    return people.find(bare) or (people.find(matches[0]) if matches else None)


def parse_json(content: bytes) -> Any:
    """Parse a JSON document; raise Unreadable if it is not one."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from None


# Models, which only their job can rewrite


def count_model(name: str, file: Any, people: People) -> Named:
    """Count the findings per person in arrays and documents of a model, in fields named after users."""
    if name.endswith(".npy") and "user" in name.rpartition("/")[2]:
        try:
            values = np.load(io.BytesIO(file.read()), allow_pickle=False).ravel().tolist()
        except (ValueError, EOFError) as error:
            raise Unreadable(str(error)) from None
        return Counter(digest for value in values if (digest := people.find(str(value))))
    if name.endswith(".json"):
        return Counter(digest for text in texts_of_users(parse_json(file.read())) if (digest := people.find(text)))
    return Counter()


def texts_of_users(node: Any, personal: bool = False) -> Iterator[str]:
    """Yield the texts of a document in fields that are named after users."""
    if isinstance(node, dict):
        for key, each in node.items():
            yield from texts_of_users(each, personal or "user" in key)
    elif isinstance(node, list):
        for each in node:
            yield from texts_of_users(each, personal)
    elif isinstance(node, str) and personal:
        yield node
