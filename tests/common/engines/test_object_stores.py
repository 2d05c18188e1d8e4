"""Spark's settings for a lake in an object store."""

from types import SimpleNamespace
from typing import Any

import pytest

from common.engines.spark.object_stores import use_object_store
from common.errors import ArgumentError


def test_spark_refuses_a_key_that_its_connector_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    session: Any = SimpleNamespace()
    use_object_store(session, "file:///lake")
    monkeypatch.setenv("TANDEM_GS_KMS_KEY", "projects/shop/locations/europe-west1/keyRings/lake/cryptoKeys/lake")
    with pytest.raises(ArgumentError, match="make it the default key of the bucket and unset the variable"):
        use_object_store(session, "gs://bucket/lake")
