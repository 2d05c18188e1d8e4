"""The least policy of a job: valid for AWS, all that the job touches in it, and nothing else."""

import json

import parliament
import pytest

from common.failures import ArgumentError
from common.job import load
from tools import iam_policy
from tools.fingerprint import ROOT, jobs


def resources(document, action):
    """What an action is allowed on."""
    allowed = [each for each in document["Statement"] if action in each["Action"]]
    return {resource for each in allowed for resource in each["Resource"]}


def policy(job, lake="s3://bucket/lake", key=None):
    return iam_policy.policy(load(ROOT / "jobs" / job), lake, "tandem-test-", key)


@pytest.mark.parametrize("job", jobs())
def test_every_jobs_policy_is_one_that_aws_takes(job):
    found = parliament.analyze_policy_string(json.dumps(policy(job))).findings
    assert [str(finding) for finding in found] == []


def test_a_jobs_policy_has_its_inputs_its_outputs_and_its_bundle():
    place = "arn:aws:s3:::bucket/lake"
    document = policy("ingest_events")
    written = {f"{place}/curated/events/*", f"{place}/intermediate/*"}
    assert resources(document, "s3:PutObject") == written
    assert resources(document, "s3:GetObject") == written | {f"{place}/raw/events/*", f"{place}/code/ingest_events/*"}
    (listing,) = [each for each in document["Statement"] if each["Sid"] == "List"]
    assert listing["Condition"]["StringLike"]["s3:prefix"] == [
        "lake/code/ingest_events/*",
        "lake/curated/events/*",
        "lake/intermediate/*",
        "lake/raw/events/*",
    ]
    assert resources(document, "dynamodb:PutItem") == set()


def test_a_job_that_only_reads_a_dataset_must_not_write_it():
    document = policy("build_interactions", "s3://bucket")
    assert "arn:aws:s3:::bucket/curated/events/*" in resources(document, "s3:GetObject")
    assert resources(document, "s3:PutObject") == {"arn:aws:s3:::bucket/intermediate/*"}


def test_a_publishing_job_may_use_the_tables_of_its_products_alone():
    tables = resources(policy("publish_product"), "dynamodb:BatchWriteItem")
    assert "arn:aws:dynamodb:*:*:table/tandem-test-recommendations" in tables
    assert all(table.startswith("arn:aws:dynamodb:*:*:table/tandem-test-") for table in tables)


@pytest.mark.parametrize("key", ["0f7c-id", "arn:aws:kms:*:*:key/0f7c-id"])
def test_a_key_of_the_lake_may_be_used_through_s3_alone(key):
    document = policy("ingest_events", key=key)
    assert [str(finding) for finding in parliament.analyze_policy_string(json.dumps(document)).findings] == []
    for action in ("kms:GenerateDataKey", "kms:Decrypt"):
        assert resources(document, action) == {"arn:aws:kms:*:*:key/0f7c-id"}
    (statement,) = [each for each in document["Statement"] if each["Sid"] == "Encrypt"]
    assert statement["Condition"] == {"StringLike": {"kms:ViaService": "s3.*.amazonaws.com"}}


def test_a_key_that_is_named_by_an_alias_is_told_to_be_named_otherwise():
    with pytest.raises(ArgumentError, match=r"the alias alias/lake, .* give the key's ID or ARN"):
        policy("ingest_events", key="alias/lake")
