"""Rows of any contract as items: types, order, sizes."""

import bisect
import datetime
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts import Column, Contract, Product
from common.delivery.items import Items, bucket_count, make_items
from common.delivery.json_values import packed, unpacked
from common.delivery.store import bucket_of
from common.engines.arrow import arrow_schema
from common.errors import GateRefused

KINDS = {
    "text": "string",
    "whole": "int64",
    "number": "float64",
    "small": "float32",
    "yes": "boolean",
    "day": "date",
    "moment": "timestamp",
}
ONE_ROW = Contract(
    "things@1",
    "One row per key.",
    {"key": Column("string"), **{name: Column(kind, nullable=True) for name, kind in KINDS.items()}},
    product=Product("key"),
)
LISTS = Contract(
    "lists@1",
    "Rows in order.",
    {"key": Column("string", nullable=True), "place": Column("int64"), "value": Column("string")},
    product=Product("key", "place", "value"),
)


def items_of(contract: Contract, rows: list[dict]) -> Items:
    return make_items(pa.Table.from_pylist(rows, arrow_schema(contract, list(contract.columns))), contract)


def test_values_of_every_type_are_plain_and_keep_their_shortest_text() -> None:
    row = {
        "key": "a",
        "text": "ä",
        "whole": 2**62 + 1,
        "number": 0.1,
        "small": 0.1,
        "yes": False,
        "day": datetime.date(2011, 6, 1),
        "moment": datetime.datetime(2011, 6, 1, 12, tzinfo=datetime.UTC),
    }
    items = items_of(ONE_ROW, [row, {"key": "b"}])
    contents = dict(zip(items.keys, items.contents(0, 2)))
    assert {name: str(value) for name, value in contents["a"].items()} == {
        "text": "ä",
        "whole": str(2**62 + 1),
        "number": "0.1",
        "small": "0.1",
        "yes": "False",
        "day": "2011-06-01",
        "moment": "2011-06-01T12:00:00.000000Z",
    }
    assert set(contents["b"].values()) == {None}


keys = st.one_of(st.none(), st.text(min_size=1, max_size=3))


@given(st.lists(st.tuples(keys, st.integers(0, 5)), unique=True, max_size=30), st.randoms())
def test_items_have_the_ordered_rows_of_their_keys(rows: list[tuple], random) -> None:
    expected: dict[str | None, list[str]] = {}
    for key, place in sorted(rows, key=lambda row: row[1]):
        expected.setdefault(key, []).append(f"{key}{place}")
    random.shuffle(rows)
    items = items_of(LISTS, [{"key": key, "place": place, "value": f"{key}{place}"} for key, place in rows])
    contents = items.contents(0, len(items.keys))
    found = {key: [row["value"] for row in content] for key, content in zip(items.keys, contents)}
    default = expected.pop(None, None)
    assert found == expected
    assert (default is None) == (items.default is None)
    assert default is None or [row["value"] for row in items.default] == default


UNPUBLISHABLE = {
    "empty_key": [{"key": "", "place": 1, "value": "a"}],
    "long_key": [{"key": "ü" * 513, "place": 1, "value": "a"}],
    "same_place_twice": [{"key": "twice", "place": place, "value": "a"} for place in (1, 2, 2, 3)],
    "large_item": [{"key": "large", "place": place, "value": "v" * 103_000} for place in range(4)],
}


@pytest.mark.parametrize("reason", UNPUBLISHABLE)
def test_keys_that_cannot_be_stored_are_left_out(reason: str) -> None:
    rows = UNPUBLISHABLE[reason]
    fine = [{"key": key, "place": place, "value": key} for place in (2, 1) for key in ("a", "\x00", "ü" * 512)]
    items = items_of(LISTS, [*rows, *fine, {"key": None, "place": 1, "value": "all"}, *UNPUBLISHABLE["empty_key"]])
    # An empty key in two rows counts once.
    assert items.unpublishable == {"empty_key": [""], reason: [rows[0]["key"]]}
    assert dict(zip(items.keys, items.contents(0, len(items.keys)))) == {
        key: [{"value": key}] * 2 for key in ("a", "\x00", "ü" * 512)
    }
    assert items.default == [{"value": "all"}]


def test_finite_numbers_of_any_size_are_kept() -> None:
    numbers: list[float | None] = [1.7e308, 2e20, 1e-130, -5e-324, -0.0, None]
    items = items_of(ONE_ROW, [{"key": str(number), "number": number, "small": 3e38} for number in numbers])
    contents = unpacked(packed(items.contents(0, len(numbers))))
    assert [(str(row["number"]), row["small"]) for row in contents] == [(str(number), 3e38) for number in numbers]
    with pytest.raises(ValueError, match="not JSON compliant"):
        packed([float("nan")])


def test_size_of_text_counts_its_bytes() -> None:
    def fits(text: str, times: int) -> bool:
        return bool(items_of(LISTS, [{"key": "a", "place": 1, "value": text * times}]).keys)

    most = bisect.bisect_left(range(400_000), True, key=lambda times: not fits("aa", times)) - 1
    assert most > 200_000
    assert fits("ä", most)
    assert not fits("ä", most + 1)


@pytest.mark.parametrize("reason", UNPUBLISHABLE)
def test_default_rows_that_cannot_be_stored_are_refused(reason: str) -> None:
    rows = [{**row, "key": None} for row in UNPUBLISHABLE[reason]]
    if len(rows) == 1:  # only the key is at fault
        assert items_of(LISTS, rows).default
    else:
        with pytest.raises(GateRefused, match="The default rows of lists@1, those without a key, cannot be stored"):
            items_of(LISTS, rows)


@pytest.mark.parametrize(("contract", "rows", "buckets"), [(ONE_ROW, 40_000, 40), (LISTS, 400_000, 40), (LISTS, 9, 16)])
def test_buckets_grow_with_the_product_and_are_even(contract: Contract, rows: int, buckets: int) -> None:
    assert contract.product
    assert bucket_count(contract.product, rows) == buckets
    sizes = Counter(bucket_of(f"user-{number}", buckets) for number in range(1000 * buckets))
    assert len(sizes) == buckets
    assert min(sizes.values()) > 850
    assert max(sizes.values()) < 1150
