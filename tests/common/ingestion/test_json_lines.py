"""Lines of JSON: those that Arrow parses give the fields that Python's parser finds, whatever has become of a line."""

import itertools
import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.ingestion import records
from common.ingestion.arrow import reading
from common.ingestion.arrow.blocks import Block
from common.ingestion.arrow.json_lines import Reader

FLAT = pa.schema([("id", pa.string()), ("count", pa.int64()), ("price", pa.float64()), ("kept", pa.bool_())])
PAGE = pa.struct([("name", pa.string()), ("width", pa.int32()), ("height", pa.float64())])
NESTED = FLAT.append(pa.field("page", PAGE)).append(pa.field("pages", pa.list_(PAGE)))
LINES = {
    "flat": (FLAT, '{"id":"a,b","count":1,"price":1.5,"kept":true}'),
    "a number at its end": (FLAT, '{"kept": false, "id": "a\\u00e9", "price": 2.5, "count": -7}\r'),
    "nested": (NESTED, '{"page":{"name":"a","width":3},"id":"a","count":1,"price":1e3,"kept":null}'),
    "nested, with another name": (NESTED, '{"id":"a","count":1,"price":0.5,"x":"y","page":{"width":3,"name":"a"}}'),
    "array": (NESTED, '{"id":"a","x":[1,{"y":[]}],"pages":[{"name":"a","x":0},null,{"width":3,"height":2}]}'),
    "numbers for texts": (NESTED, '{"id":12,"page":{"name":-7},"pages":[{"name":5},null,{"name":0}]}'),
}
PIECES = [*',:{}[]" \t\\-+.e01\r', ", ", '""', "NaN", "nan", "-Infinity", "Inf", "null", "true", "1e999", '"id":"c",',
          '"count":2,', ',"x":3', ',"x":"z"', ',"width":4', "'", "/**/", "\\ud800", "\\udc00", "\x00", "é", "\x7f",
          '{"id":"d"}', "}{", "} null}", "9" * 20, "9" * 400, '{"name":8}', "[]"]  # fmt: skip
# Places in a line, each with the number of characters that a piece replaces.
edits = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 2), st.sampled_from(PIECES)), max_size=3)


def edited(line: str, changes: list[tuple[int, int, str]]) -> bytes:
    for place, replaced, piece in changes:
        start = min(place, len(line))
        line = line[:start] + piece + line[start + replaced :]
    return line.encode()


def block_of(lines: list[bytes]) -> Block:
    return Block(1, b"".join(line + b"\n" for line in lines))


def assert_as_python(reader: Reader, fields: pa.Schema, block: Block) -> None:
    found = reading.block_batch(reader, block)
    exact = reading.exact_batch(Reader(fields), [block[position] for position in range(len(block))])
    assert str(found.fields.to_pylist()) == str(exact.fields.to_pylist())  # as text, for negative zero
    assert (found.reasons, found.misfits) == (exact.reasons, exact.misfits)


@pytest.mark.parametrize("shape", LINES)
@settings(max_examples=30)
@given(changes=st.lists(edits, min_size=20, max_size=40))
def test_any_change_of_a_line_is_read_as_python_reads_it(shape: str, changes: list[list[tuple[int, int, str]]]) -> None:
    fields, line = LINES[shape]
    reader, former = Reader(fields), block_of([line.encode()] * 9)
    assert len(reader.parse(former).positions) == len(former)  # so that Arrow parses lines like this one
    for pair in itertools.pairwise(edited(line, each) for each in changes):
        assert_as_python(reader, fields, block_of(list(pair)))


@pytest.mark.parametrize(
    "lines",
    [
        [b'{"id":"a"}{"id":"b"}', b""],
        [b'{"id":"a"}{"id":"b"}', b'{"id":', b'"c"}'],
        [b'{"id":"a"}null}', b'{"id":"b"}'],
        [b"null", b'{"id":"b"}'],
        [b'{"x":NaN}', b'{"x":[-Infinity]}', b'{"x":"NaN, Inf"}', b'{"price":NaN}'],
        [b'{"price":%s}' % (b"9" * 400), b'{"price":1.7976931348623159e308}', b'{"price":1e-400}'],
        [b'{"count":9223372036854775808}', b'{"count":1.0}', b'{"count":-0}'],
        [b'{"x":%s}' % (b"9" * 4400), b'{"x":%s%s}' % (b"[" * 1500, b"]" * 1500)],
        [b"\xef\xbb\xbf{}", b"\xff{}", b'{"x":"\xff"}', b'{"id":"\xc3\xa9"}'],
        [b'{"id":"a","id":"b"}', b'{"x":1,"x":2,"id":"c"}', b'{"id":null,"id":"d"}'],
        [b'{"id":1}', b'{"id":"a"}', b'{"id":1.5}', b'{"id":true}'],
        [b"", b"\r", b"{", b"}", b"{}\r", b" {} "],
    ],
)
def test_lines_that_arrow_would_take_for_others(lines: list[bytes]) -> None:
    for some in [lines, *([line] for line in lines)]:
        assert_as_python(Reader(FLAT), FLAT, block_of(some))


def test_the_beginning_of_a_line_that_is_too_long_is_no_record() -> None:
    batch = reading.block_batch(Reader(FLAT), Block(1, b'{"id":"a"}\n', size=2 << 20))
    assert batch.reasons == [records.TOO_LONG]


def test_few_lines_that_are_no_records_leave_the_others_to_arrow() -> None:
    lines = [json.dumps({"id": number % 7 or None, "count": number}).encode() for number in range(20_000)]
    spoilt = [line[:-3] if number % 3000 == 0 else line for number, line in enumerate(lines)]
    spoilt[5], spoilt[4000], spoilt[9000] = b'{"count":NaN}', b"\xff", b'{"count":"a"}'
    block, reader = block_of(spoilt), Reader(FLAT)
    assert len(reader.parse(block).positions) > 19_500
    assert_as_python(reader, FLAT, block)
