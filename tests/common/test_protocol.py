"""Protocol: keys from IDs, arguments, parameters, results; and the copy for the DAGs."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from common import protocol
from common.errors import ArgumentError, GateRefused, InputError, StaleAttempt
from common.protocol import MAX_NAME, encode, task_key

ROOT = Path(__file__).parents[2]

identifiers = st.text(
    alphabet=st.one_of(st.sampled_from("aB0_-.:+ /~%=é漢😀"), st.characters()), min_size=1, max_size=260
)


def test_ordinary_ids_stay_readable():
    assert encode("build_interactions") == "build_interactions"
    assert encode("group.task-1") == "group.task-1"
    assert encode("a\tb") == "a~09b"  # always two digits, else a tab and a `b` would be the byte 9b
    assert encode("manual__2026-11-23T02:00:00+00:00") == "manual__2026-11-23T02~3a00~3a00~2b00~3a00"


@given(identifiers)
@example("..")
@example("_temporary")
@example("a" * 250)
@example("漢" * 250)
def test_names_are_safe_in_every_storage(identifier):
    name = encode(identifier)
    assert re.fullmatch(r"[A-Za-z0-9~-][A-Za-z0-9_.~-]*", name)
    assert len(name) <= MAX_NAME


@given(identifiers, st.data())
def test_ids_differing_in_one_character_have_different_keys(identifier, data):
    position = data.draw(st.integers(0, len(identifier) - 1))
    other = (
        identifier[:position] + data.draw(st.sampled_from(":+ /~%._é") | st.characters()) + identifier[position + 1 :]
    )
    assume(other != identifier)
    assert encode(identifier) != encode(other)


@given(identifiers, identifiers, identifiers, identifiers)
def test_border_between_ids_is_part_of_the_key(one, two, three, four):
    assume((one, two) != (three, four))
    assert task_key("s3://lake", one, two, "task") != task_key("s3://lake", three, four, "task")


def test_empty_id_is_refused():
    with pytest.raises(ValueError, match="empty"):
        encode("")


def test_copy_for_the_dags_is_current():
    source, copy = (ROOT / name for name in ("common/protocol.py", "airflow_dags/tandem/protocol.py"))
    assert copy.read_text().partition("\n")[2] == source.read_text()


def test_final_exit_codes_are_those_of_errors():
    errors = (ArgumentError, InputError, GateRefused, StaleAttempt)
    assert {error.exit_code for error in errors} == protocol.FINAL.keys()


def test_arguments_are_single_words():
    identity = {"lake": "s3://b", "dag_id": "-d", "run_id": "r=1", "task_id": "t", "attempt": 2, "map_index": None}
    words = "--lake=s3://b --dag-id=-d --run-id=r=1 --task-id=t --attempt=2 --from=rows=-x --set=sure=true"
    assert protocol.arguments(identity, {"rows": "-x"}, {"sure": True}) == words.split()


def test_result_is_bounded_and_keeps_small_metrics():
    metrics = {"small": 1, "large": "x" * protocol.MAX_RESULT, "text": "é" * 100}
    result = protocol.fit_result("file:///m", metrics)
    assert result["metrics"] == {"small": 1, "text": "é" * 100}
    assert result["left_out"] == "1 metrics, 'large' first; the manifest has them."
    assert len(json.dumps(result)) <= protocol.MAX_RESULT


def test_job_gets_the_variables_of_its_services_only():
    aws = {"AWS_SECRET_ACCESS_KEY": "a", "TANDEM_S3_KMS_KEY": "k"}
    google = {"GOOGLE_APPLICATION_CREDENTIALS": "/keys/g.json", "STORAGE_EMULATOR_HOST": "h", "TANDEM_GS_KMS_KEY": "k"}
    environment = {**aws, **google, "REDIS_URL": "redis://:secret@h", "GOOGLE_API_KEY": "other", "PATH": "/bin"}

    def got(lake, *services):
        return protocol.service_variables(protocol.services_of(lake, services), environment)

    assert got("file:///lake") == {}
    assert got("s3://b/lake") == aws
    assert got("gs://b/lake") == google
    assert got("file:///lake", "delivery").keys() == {"AWS_SECRET_ACCESS_KEY", protocol.CREDENTIALS_FILE, "REDIS_URL"}


@pytest.mark.parametrize(
    ("service", "variable", "address", "here"),
    [
        ("gs", "STORAGE_EMULATOR_HOST", "http://127.0.0.1:4443", True),
        ("gs", "STORAGE_EMULATOR_HOST", "https://gs.example", False),
        ("delivery", "BIGTABLE_EMULATOR_HOST", "localhost:8086", True),
        ("delivery", "REDIS_URL", "redis://:secret@[::1]:6379/0", True),
        ("delivery", "REDIS_URL", "rediss://:127.0.0.1@cache.example:6379", False),
        ("s3", "REDIS_URL", "redis://localhost", False),
    ],
)
def test_server_on_this_machine_is_recognised(service, variable, address, here):
    assert protocol.is_on_loopback(service, {variable: address}) == here
