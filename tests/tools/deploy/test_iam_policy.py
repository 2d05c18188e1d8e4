"""The minimal policy of a job: valid for AWS, sufficient for its tasks, closed to everything else."""

import fnmatch
import ipaddress
import json

import parliament
import pytest
import yaml

from common.errors import ArgumentError
from tools.deploy import iam_policy, pipelines
from tools.packaging.fingerprint import ROOT, jobs

LAKE = "arn:aws:s3:::bucket/lake"


@pytest.fixture(scope="session")  # a worker may come back to this module
def known() -> list[pipelines.TaskOfPipeline]:
    return pipelines.tasks("dev")


def resources(document, action):
    """Return the resources on which an action is allowed."""
    allowed = [each for each in document["Statement"] if action in each["Action"]]
    return {resource for each in allowed for resource in each["Resource"]}


def policy(known, job=None, pipeline=None, lake="s3://bucket/lake", key=None):
    return iam_policy.policy(iam_policy.select(known, job, pipeline), known, lake, "tandem-test-", key)


def may(document, action, path):
    """Return True if an action is allowed on an object of the lake."""
    return any(fnmatch.fnmatchcase(f"{LAKE}/{path}", allowed) for allowed in resources(document, action))


@pytest.mark.parametrize("job", jobs())
def test_policy_of_every_job_is_valid_for_aws(known, job):
    found = parliament.analyze_policy_string(json.dumps(policy(known, job))).findings
    assert [str(finding) for finding in found] == []


@pytest.mark.parametrize("job", jobs())
def test_no_job_writes_files_of_another(known, job):
    document = policy(known, job)
    own = {(task.pipeline, task.task) for task in known if task.job == job}
    for task in known:
        manifest = f"intermediate/{task.pipeline}/run/{task.task}/manifest.json"
        for action in ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"):
            assert may(document, action, manifest) == ((task.pipeline, task.task) in own)
    for path in ("code/any/0123/main.py", f"code/{job}/0123/main.py", "releases/current.json", "raw/events/x", "x"):
        for action in ("s3:PutObject", "s3:DeleteObject"):
            assert not may(document, action, path)
    assert not may(document, "s3:GetObject", "releases/current.json")


@pytest.mark.parametrize("job", jobs())
def test_job_reads_hand_overs_of_its_predecessors_only(known, job):
    document = policy(known, job)
    own = [task for task in known if task.job == job]
    readable = {(task.pipeline, name) for task in own for name in (task.task, *task.predecessors.values())}
    for task in known:
        manifest = f"intermediate/{task.pipeline}/run/{task.task}/map-3/manifest.json"
        assert may(document, "s3:GetObject", manifest) == ((task.pipeline, task.task) in readable)


@pytest.mark.parametrize(
    ("job", "action", "path", "allowed"),
    [
        ("ingest_events", "s3:GetObject", "raw/events/arrival=2011-06-01/a.jsonl", True),
        ("ingest_events", "s3:GetObject", "raw/items/arrival=2011-06-01/items.csv", False),
        ("ingest_events", "s3:GetObject", "code/ingest_events/0123/code.zip", True),
        ("ingest_events", "s3:GetObject", "code/build_interactions/0123/code.zip", False),
        ("ingest_events", "s3:PutObject", "curated/events/days.json", True),
        ("ingest_events", "s3:GetObject", "curated/events/ingested/2011-06.json", True),
        ("ingest_events", "s3:PutObject", "curated/events/ingested/2011-06.json", True),
        ("ingest_events", "s3:DeleteObject", "curated/events/ingested/2011-06.json", False),
        ("ingest_events", "s3:PutObject", "curated/events/date=2011-06-01/manifest.json", True),
        ("ingest_events", "s3:DeleteObject", "curated/events/date=2011-06-01/version=0-1-aa/part", True),
        ("ingest_events", "s3:DeleteObject", "curated/events/_temporary/0/part", True),
        ("ingest_events", "s3:DeleteObject", "curated/events/date=2011-06-01/manifest.json", False),
        ("ingest_events", "s3:PutObject", "curated/items/all/manifest.json", False),
        ("ingest_events", "s3:GetObject", "suppression/key", True),
        ("ingest_users", "s3:PutObject", "suppression/users", False),
        ("ingest_users", "s3:GetObject", "curated/user_changes/all/version=0-1-aa/part", True),
        ("ingest_users", "s3:PutObject", "curated/user_changes/all/manifest.json", True),
        ("ingest_users", "s3:PutObject", "curated/users/ingested/2011-06.json", True),
        ("ingest_items", "s3:GetObject", "suppression/key", False),
        ("build_interactions", "s3:GetObject", "curated/events/days.json", True),
        ("build_interactions", "s3:PutObject", "curated/events/days.json", False),
        ("build_interactions", "s3:PutObject", "logs/emr/j-1/steps/s-1/stderr.gz", True),
        ("build_interactions", "s3:GetObject", "logs/emr/j-1/steps/s-1/stderr.gz", False),
        ("train_recommender", "s3:PutObject", "logs/emr/j-1/steps/s-1/stderr.gz", False),
    ],
)
def test_levels_of_the_lake_are_open_as_needed(known, job, action, path, allowed):
    assert may(policy(known, job), action, path) == allowed


@pytest.mark.parametrize("job", jobs())
def test_listing_is_limited_to_readable_folders(known, job):
    document = policy(known, job)
    (statement,) = [each for each in document["Statement"] if each["Sid"] == "List"]
    prefixes = statement["Condition"]["StringLikeIfExists"]["s3:prefix"]
    assert {f"arn:aws:s3:::bucket/{prefix}" for prefix in prefixes} <= resources(document, "s3:GetObject")


@pytest.mark.parametrize("job", ["write_product", "publish_product"])
def test_publishing_jobs_use_tables_of_their_products(known, job):
    prefix = "arn:aws:dynamodb:*:*:table/tandem-test-"
    one = policy(known, job, "trending_items")
    assert resources(one, "dynamodb:BatchWriteItem") == {f"{prefix}trending_items"}
    every = resources(policy(known, job), "dynamodb:BatchWriteItem")
    assert every == {
        f"{prefix}{name}" for name in ("characteristics", "recommendations", "similar_items", "trending_items")
    }
    assert resources(policy(known, "ingest_events"), "dynamodb:PutItem") == set()


def test_nodes_of_a_pipeline_get_rights_of_its_spark_jobs(known):
    document = policy(known, pipeline="daily_recommendations")
    written = {path for path in resources(document, "s3:PutObject") if "/logs/" not in path}
    assert written == {f"{LAKE}/intermediate/daily_recommendations/*/build_interactions/*"}


@pytest.mark.parametrize(
    ("job", "pipeline", "sentence"),
    [
        (None, None, "give JOB=…, PIPELINE=… or both"),
        ("train_recommender", "trending_items", "No task of trending_items runs train_recommender"),
        (None, "ingest_items", "No task of ingest_items runs a Spark job"),
    ],
)
def test_job_in_no_pipeline_gets_no_policy(known, job, pipeline, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        policy(known, job, pipeline)


@pytest.mark.parametrize("key", ["0f7c-id", "arn:aws:kms:*:*:key/0f7c-id"])
def test_key_of_the_lake_is_usable_through_s3_only(known, key):
    document = policy(known, "ingest_events", key=key)
    assert [str(finding) for finding in parliament.analyze_policy_string(json.dumps(document)).findings] == []
    for action in ("kms:GenerateDataKey", "kms:Decrypt"):
        assert resources(document, action) == {"arn:aws:kms:*:*:key/0f7c-id"}
    (statement,) = [each for each in document["Statement"] if each["Sid"] == "Encrypt"]
    assert statement["Condition"] == {"StringLike": {"kms:ViaService": "s3.*.amazonaws.com"}}


def test_alias_of_a_key_is_refused(known):
    with pytest.raises(ArgumentError, match=r"the alias alias/lake, .* give the key's ID or ARN"):
        policy(known, "ingest_events", key="alias/lake")


def test_network_policy_blocks_metadata_servers_of_clouds():
    file = ROOT / "airflow_dags" / "environments" / "network_policy.yaml"
    policy = yaml.safe_load(file.read_text())
    pod = json.loads((file.parent / "pod.json").read_text())
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy["spec"]
    blocks = [to["ipBlock"] for rule in policy["spec"]["egress"] for to in rule["to"] if "ipBlock" in to]
    for address in ("169.254.169.254", "169.254.170.2", "fd00:ec2::254"):
        ip = ipaddress.ip_address(address)
        assert not any(
            ip in ipaddress.ip_network(block["cidr"])
            and not any(ip in ipaddress.ip_network(left_out) for left_out in block.get("except", []))
            for block in blocks
            if ipaddress.ip_network(block["cidr"]).version == ip.version
        )
