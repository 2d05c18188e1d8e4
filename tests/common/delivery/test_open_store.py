"""The choice of a store by its URL."""

import subprocess
import sys

import pytest

from common.delivery.stores import KINDS, open_store
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
