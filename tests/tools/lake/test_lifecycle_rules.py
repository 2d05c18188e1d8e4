"""The lifecycle rules of an environment's bucket."""

import boto3
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client
from google.cloud.storage.bucket import LifecycleRuleDelete

from common.errors import TaskError
from tools.lake import lifecycle_rules

FORMER = {f"lake/{name}/" for name in ("intermediate", "curated", "logs", "products/reports")}  # raw can be restored


def test_s3_accepts_rules_and_they_spare_raw_deliveries(moto, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tests")
    client = boto3.client("s3", endpoint_url=moto, region_name="us-east-1")
    client.create_bucket(Bucket="rules")
    configuration = lifecycle_rules.rules("s3://rules/lake", 30, 400)
    client.put_bucket_lifecycle_configuration(Bucket="rules", LifecycleConfiguration=configuration)
    taken = client.get_bucket_lifecycle_configuration(Bucket="rules")["Rules"]
    ends = {rule["Filter"]["Prefix"]: rule["Expiration"]["Days"] for rule in taken if "Expiration" in rule}
    assert ends == {"lake/intermediate/": 30, "lake/logs/": 30, "lake/products/reports/": 400}
    assert {rule["Filter"]["Prefix"] for rule in taken if "NoncurrentVersionExpiration" in rule} == FORMER


def test_rules_for_google_are_those_for_s3():
    """Google's own classes build the same rules from the same conditions."""
    configuration = lifecycle_rules.rules("gs://rules/lake", 30, 400)
    bucket = Client("project", AnonymousCredentials()).bucket("rules")
    bucket.lifecycle_rules = configuration["rule"]
    assert list(bucket.lifecycle_rules) == [
        LifecycleRuleDelete(age=30, matches_prefix=["lake/intermediate/", "lake/logs/"]),
        LifecycleRuleDelete(age=400, matches_prefix=["lake/products/reports/"]),
        LifecycleRuleDelete(
            days_since_noncurrent_time=lifecycle_rules.FORMER_DAYS,
            matches_prefix=[f"lake/{name}/" for name in lifecycle_rules.FORMER],
        ),
    ]
    assert {prefix for rule in configuration["rule"][2:] for prefix in rule["condition"]["matchesPrefix"]} == FORMER


def test_folder_has_no_lifecycle_rules():
    with pytest.raises(TaskError, match=r"The lake is file:///x, expected s3://… or gs://…"):
        lifecycle_rules.rules("file:///x", 30, 400)
