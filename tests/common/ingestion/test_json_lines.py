"""Lines of JSON: those that DuckDB parses give the fields that Python's parser finds, whatever has become of a line."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.engines import duck
from common.ingestion.arrow import reading
from common.ingestion.arrow.blocks import Block
from common.ingestion.arrow.json_lines import Reader

FLAT = pa.schema([("id", pa.string()), ("count", pa.int64()), ("price", pa.float64()), ("kept", pa.bool_())])
NESTED = FLAT.append(pa.field("page", pa.struct([("name", pa.string()), ("width", pa.int32())])))
LINES = {
    "flat": (FLAT, '{"id":"a,b","count":1,"price":1.5,"kept":true}'),
    "a number at its end": (FLAT, '{"kept": false, "id": "a\\u00e9", "price": 2.5, "count": -7}'),
    "nested": (NESTED, '{"page":{"name":"a","width":3},"id":"a","count":1,"price":1e3,"kept":null}'),
    "nested, with another name": (NESTED, '{"id":"a","count":1,"price":0.5,"x":"y","page":{"width":3,"name":"a"}}'),
}
PIECES = [*',:{}[]" \t\\-+.e01', ", ", '""', "NaN", "nan", "-Infinity", "inf", "null", "true", "1e999", '"id":"c",',
          '"count":2,', ',"x":3', ',"x":"z"', ',"width":4', "'", "/**/", "\\ud800", "\x00", "é"]  # fmt: skip
# Places in a line, each with the number of characters that a piece replaces.
edits = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 2), st.sampled_from(PIECES)), min_size=1, max_size=3)


def edited(line: str, changes: list[tuple[int, int, str]]) -> bytes:
    for place, replaced, piece in changes:
        start = min(place, len(line))
        line = line[:start] + piece + line[start + replaced :]
    return line.encode()


@pytest.mark.parametrize("shape", LINES)
@settings(max_examples=30)
@given(changes=st.lists(edits, min_size=20, max_size=40))
def test_any_change_of_a_known_line_is_read_as_python_reads_it(
    shape: str, changes: list[list[tuple[int, int, str]]]
) -> None:
    fields, line = LINES[shape]
    reader, former = Reader(fields), Block(1, f"{line}\n".encode() * 9)
    block = Block(1, b"".join(edited(line, each) + b"\n" for each in changes))
    with duck.connect() as connection:
        assert not reader.unsure(connection, former)  # so that DuckDB parses lines of this shape
        found = reading.block_batch(reader, connection, block)
    exact = reading.exact_batch(Reader(fields), [block[position] for position in range(len(block))])
    assert found.fields.to_pylist() == exact.fields.to_pylist()
    assert (found.reasons, found.misfits) == (exact.reasons, exact.misfits)


@pytest.mark.parametrize("shape", LINES)
def test_a_comma_before_the_end_of_an_object_is_no_json(shape: str) -> None:
    fields, line = LINES[shape]
    spoilt = {
        f"{line[:place]}{comma}{line[place:]}" for place, each in enumerate(line) if each == "}" for comma in ",;"
    }
    spoilt |= {each.replace(",}", " , }") for each in spoilt}
    block = Block(1, "".join(f"{each}\n" for each in [line, *sorted(spoilt)]).encode())
    with duck.connect() as connection:
        batch = reading.block_batch(Reader(fields), connection, block)
    assert batch.reasons == [None] + ["not a JSON object"] * len(spoilt)
