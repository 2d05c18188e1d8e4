"""The choice of a store by its URL, and plain values in DynamoDB's own form."""

import subprocess
import sys
from decimal import Decimal

import pytest
from boto3.dynamodb.types import TypeDeserializer
from hypothesis import given
from hypothesis import strategies as st

from common.delivery.dynamodb.values import decode, encode
from common.delivery.stores import KINDS, open_store
from common.delivery.writer import comparable
from common.errors import ArgumentError
from tools.packaging.fingerprint import product

OPENED = """
import sys
from common.delivery.stores import open_store
open_store("dynamodb:", "products", 1)
print(*(name for name in ("google.cloud.bigtable", "redis", "common.delivery.bigtable") if name in sys.modules))
"""


def test_unknown_store_is_refused_with_the_closest_one() -> None:
    with pytest.raises(ArgumentError, match=r"The store 'dynamo:' is unknown, .*; did you mean 'dynamodb'"):
        open_store("dynamo:", "products")


@pytest.mark.parametrize("job", ["write_product", "publish_product"])
def test_images_of_jobs_have_all_stores(job: str) -> None:
    names = {str(file) for file in product(job).files}
    assert {f"common/delivery/{kind}/store.py" for kind in KINDS} <= names


def test_client_of_another_store_is_not_imported(dynamodb: str) -> None:
    done = subprocess.run([sys.executable, "-c", OPENED], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(-9e125, 9e125).filter(lambda number: abs(number) > 1e-130)
values = st.recursive(
    st.none() | st.booleans() | st.text() | numbers,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(values)
def test_every_plain_value_is_read_as_it_was_written(value) -> None:
    assert comparable(decode(encode(value))) == comparable(value)
    assert type(decode(encode(value))) is type(value)


@given(numbers)
def test_number_has_its_shortest_text_for_frontends(number) -> None:
    assert encode(number) == {"N": str(number)}
    assert TypeDeserializer().deserialize(encode(number)) == Decimal(str(number))


def test_whole_float_that_a_store_returns_as_a_whole_number_is_equal() -> None:
    assert comparable([{"score": 2e20}, True]) == comparable([{"score": 2 * 10**20}, True])
    assert comparable([True]) != comparable(["1"])
