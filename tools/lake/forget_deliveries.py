"""Search deliveries for people by the user_id of their source, and copy them without their records.

A source's expression says whom a record is about, as in ingestion. A record that cannot be parsed, or of a source that
does not map user_id, is searched for the words in it.
"""

import io
import itertools
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from common import sources
from common.engines import duck
from common.engines.duck import RECORDS, quoted
from common.ingestion import deliveries
from common.ingestion.arrow import mapping, reading
from common.ingestion.arrow.reading import Batch
from common.ingestion.deliveries import Line
from common.ingestion.records import MAX_RECORD
from common.ingestion.suppression import People
from common.sources import source
from common.sources.source import ENTRY, Source
from tools.lake import forget_content
from tools.lake.forget_content import BATCH, PIECE, Named, Unreadable

KINDS = ("events", "users")


@dataclass
class Sources:
    """The sources of a checkout whose deliveries are about users, by folder."""

    by_folder: dict[str, Source]

    def of(self, path: str) -> Source | None:
        """Return the source of a delivery by its path; None without one, or if its records are searched by words."""
        found = self.by_folder.get(path.partition("/arrival=")[0])
        if found is None or "user_id" not in found.columns:
            return None
        plain = found.format == "json" and found.columns["user_id"] == "user_id"
        return None if plain else found  # `forget_content.find_lines` reads the field user_id itself, and quicker


def load() -> Sources:
    """Return the sources of events and users; a team may have none of a kind."""
    entries = [entry for folder in sources.folder().iterdir() if folder.is_dir() for entry in folder.iterdir()]
    kinds = [kind for kind in KINDS if any(entry.name == f"{kind}.toml" for entry in entries)]
    return Sources({each.deliveries: each for kind in kinds for each in source.load(kind)})


def find(found: Source | None, file: io.BufferedReader, people: People) -> tuple[Named, set[int]]:
    """Return the number of records per person in a delivery, and the numbers of the lines or rows to drop."""
    if found is None:
        return forget_content.find_lines(file, people)
    if found.format != "parquet" and not deliveries.has_ascii(found.encoding):
        raise Unreadable(f"text in {found.encoding}, which is not searched; redeliver it in UTF-8 without these people")
    named: Named = Counter()
    dropped: set[int] = set()
    try:
        with forget_content.unpacked(file) as content:
            lines = whole_lines(content, people, named, dropped)
            for batch in (
                reading.row_batches(found, content) if found.format == "parquet" else reading.text_batches(found, lines)
            ):
                for position, digests in people_of(found, batch, people).items():
                    named.update(digests)
                    line = batch.line(position)
                    dropped.update(range(line.number, line.number + 1 + extra_lines(batch, line)))
    except deliveries.Unreadable as error:
        if found.format == "parquet":
            raise Unreadable(str(error)) from None
        file.seek(0)
        return forget_content.find_lines(file, people)
    return named, dropped


def extra_lines(batch: Batch, line: Line) -> int:
    """Return the number of line ends in a row of CSV."""
    return 0 if batch.lines is None else line.content.count(b"\n")


def whole_lines(content: IO[bytes], people: People, named: Named, dropped: set[int]) -> Iterator[Line]:
    """Yield the numbered lines of a file; one that is too long for ingestion is searched here, and comes empty."""
    for number in itertools.count(1):
        line = content.readline(MAX_RECORD + 1)
        if not line:
            return
        if line.endswith(b"\n") or len(line) <= MAX_RECORD:
            line = line.removesuffix(b"\n")
            yield Line(number, len(line), line)
            continue
        digests: set[str] = set()
        while line:
            digests |= people.named_in_line(line)
            rest = b"" if line.endswith(b"\n") else content.readline(PIECE)
            line = line[-forget_content.OVERLAP :] + rest if rest else b""
        named.update(digests)
        dropped.update([number] if digests else [])
        yield Line(number, 0, b"")


def people_of(found: Source, batch: Batch, people: People) -> dict[int, set[str]]:
    """Return the hashes of the people whom the records of a batch are about, by position."""
    result: dict[int, set[str]] = {}
    with duck.connect() as connection:
        connection.register("__batch", mapping.numbered(batch))
        rows = connection.sql(user_query(found, batch.fields.schema)).fetchall()
    for position, user, problem in rows:
        if user is not None:
            digest = people.find(user)
            digests = {digest} if digest else set()
        else:
            digests = people.named_in_line(batch.line(position).content) if problem else set()
        if digests:
            result.setdefault(position, set()).update(digests)
    return result


def user_query(found: Source, raw: pa.Schema) -> str:
    """Return SQL of the position, the user and the problem of each record, or of each entry of its array."""
    fields, entry = reading.fields_of(found), ""
    if found.each:
        array = duck.Translator(fields).sql_of(found.each)
        fields = fields.append(pa.field(ENTRY, duck.arrow_type(found.known_fields[ENTRY])))
        entry = f", unnest(CASE WHEN len({array}) > 0 THEN {array} ELSE [NULL] END) AS {quoted(ENTRY)}"
    user = duck.Translator(fields).sql_of(found.columns["user_id"])
    return f"""
        WITH __typed AS ({mapping.typed(found, raw)}), {RECORDS} AS (SELECT *{entry} FROM __typed)
        SELECT __position, nullif({user}::VARCHAR, ''), coalesce(__problem, __misfit) FROM {RECORDS}
    """


def copy(found: Source | None, file: io.BufferedReader, target: IO[bytes], dropped: set[int]) -> None:
    """Copy a delivery without some lines or rows; other lines keep every byte, other rows their order."""
    if found is None:
        forget_content.copy_lines(file, target, dropped)
    elif found.format == "parquet":
        copy_rows(file, target, dropped)
    else:
        kind = forget_content.compression(file)
        with forget_content.packed(target, kind) as sink, forget_content.unpacked(file) as content:
            number = 1
            while piece := content.readline(PIECE):
                if number not in dropped:
                    sink.write(piece)
                number += piece.endswith(b"\n")


def copy_rows(file: Any, target: IO[bytes], dropped: set[int]) -> None:
    """Copy a Parquet file without the rows of these numbers, from 1."""
    number = 1
    with (
        forget_content.parquet(file) as opened,
        os.fdopen(os.dup(target.fileno()), "wb") as sink,  # which pyarrow closes
        pq.ParquetWriter(sink, opened.schema_arrow, compression="zstd") as writer,
    ):
        for batch in opened.iter_batches(BATCH, use_threads=False):
            kept = [row not in dropped for row in range(number, number + batch.num_rows)]
            number += batch.num_rows
            writer.write_batch(batch.filter(pa.array(kept, pa.bool_())))
