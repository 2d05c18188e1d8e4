"""Scheduling finds what a job published: the two sides make the same keys from the same IDs."""

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tandem.lake import encode, read_document, task_key

from common.handover import lake
from tools.sandbox.faulty_proxy import proxy

IDS = st.text(min_size=1, max_size=260) | st.text(alphabet="aA0_-.~:+/ é", min_size=190, max_size=210)


@given(IDS)
def test_an_id_is_encoded_as_jobs_encode_it(identifier):
    assert encode(identifier) == lake.encode(identifier)


@given(IDS, IDS, IDS, st.none() | st.integers(0, 999))
def test_a_task_has_the_key_that_jobs_give_it(dag_id, run_id, task_id, map_index):
    key = lake.task_key("s3://bucket/lake", dag_id, run_id, task_id, map_index)
    assert task_key("s3://bucket/lake", dag_id, run_id, task_id, map_index) == key


@pytest.mark.parametrize("kind", ["cut", "unavailable", "refused", "lost"])
def test_document_is_read_in_spite_of_faults_of_s3(s3_server, monkeypatch, kind):
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    boto3.Session().client("s3").put_object(Bucket="tandem-lake", Key="m.json", Body=b'{"a": "long enough to be cut"}')
    with proxy(s3_server["AWS_ENDPOINT_URL"]) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        between.fail(kind, lambda request: request.path.endswith("m.json"), times=3)
        assert read_document("s3://tandem-lake/m.json") == {"a": "long enough to be cut"}
        assert between.happened == [kind] * 3
