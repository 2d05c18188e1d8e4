"""The lifecycle rules of an environment's bucket."""

import boto3

from tools.lake import lifecycle_rules


def test_s3_accepts_rules_and_they_spare_raw_deliveries(moto, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tests")
    client = boto3.client("s3", endpoint_url=moto, region_name="us-east-1")
    client.create_bucket(Bucket="rules")
    configuration = lifecycle_rules.rules("s3://rules/lake", 30)
    client.put_bucket_lifecycle_configuration(Bucket="rules", LifecycleConfiguration=configuration)
    taken = client.get_bucket_lifecycle_configuration(Bucket="rules")["Rules"]
    ends = {rule["Filter"]["Prefix"]: rule["Expiration"]["Days"] for rule in taken if "Expiration" in rule}
    assert ends == {"lake/intermediate/": 30, "lake/logs/": 30}
    former = {rule["Filter"]["Prefix"] for rule in taken if "NoncurrentVersionExpiration" in rule}
    assert former == {"lake/intermediate/", "lake/curated/", "lake/logs/"}, "raw deliveries can be restored"
