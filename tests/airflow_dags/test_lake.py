"""Scheduling finds what a job published: the two sides make the same keys from the same IDs."""

from hypothesis import given
from hypothesis import strategies as st
from tandem.lake import encode, task_key

from common import lake

IDS = st.text(min_size=1, max_size=260) | st.text(alphabet="aA0_-.~:+/ é", min_size=190, max_size=210)


@given(IDS)
def test_an_id_is_encoded_as_jobs_encode_it(identifier):
    assert encode(identifier) == lake.encode(identifier)


@given(IDS, IDS, IDS, st.none() | st.integers(0, 999))
def test_a_task_has_the_key_that_jobs_give_it(dag_id, run_id, task_id, map_index):
    key = lake.task_key("s3://bucket/lake", dag_id, run_id, task_id, map_index)
    assert task_key("s3://bucket/lake", dag_id, run_id, task_id, map_index) == key
