"""The minimal rights of a job on each cloud: a valid policy, sufficient for its tasks, closed to everything else."""

import contextlib
import fnmatch
import ipaddress
import json
import re

import parliament
import pytest
import yaml
from google.iam.v1 import policy_pb2
from google.protobuf import json_format

from common import protocol
from common.errors import ArgumentError
from tools.deploy import aws_policy, google_policy, iam_policy, pipelines, rights
from tools.packaging.fingerprint import ROOT, jobs

READ, WRITE, DELETE = "read", "write", "delete"
ON_AWS = {READ: "s3:GetObject", WRITE: "s3:PutObject", DELETE: "s3:DeleteObject"}
ON_GOOGLE = {READ: "storage.objects.get", WRITE: "storage.objects.create", DELETE: "storage.objects.delete"}
PREFIX = "tandem-test-"


@pytest.fixture(scope="session")  # a worker may come back to this module
def known() -> list[pipelines.TaskOfPipeline]:
    return pipelines.tasks("dev")


class Aws:
    """A policy for AWS."""

    def __init__(self, known, job=None, pipeline=None, key=None):
        tasks = rights.select(known, job, pipeline)
        self.document = aws_policy.policy(tasks, known, "s3://bucket/lake", PREFIX, key)

    def resources(self, action):
        """Return the resources on which an action is allowed."""
        allowed = [each for each in self.document["Statement"] if action in each["Action"]]
        return {resource for each in allowed for resource in each["Resource"]}

    def may(self, action, path):
        """Return True if an action is allowed on an object of the lake."""
        name = f"arn:aws:s3:::bucket/lake/{path}"
        return any(fnmatch.fnmatchcase(name, allowed) for allowed in self.resources(ON_AWS[action]))

    def tables(self):
        return {resource.partition("table/")[2] for resource in self.resources("dynamodb:BatchWriteItem")}


class Google:
    """The policies of managed folders and tables, for one account."""

    def __init__(self, known, job=None, pipeline=None):
        accounts = google_policy.accounts(known, job, pipeline)
        self.document = google_policy.policies(accounts, known, "gs://bucket/lake", PREFIX, "project-1")

    def bindings(self, kind, permission):
        """Return the resources with the conditions under which they allow a permission."""
        roles = self.document["roles"].items()
        named = {
            f"projects/project-1/roles/{name}" for name, role in roles if permission in role["includedPermissions"]
        }
        return [
            (resource, each.get("condition", {"expression": ""})["expression"])
            for resource, policy in self.document[kind].items()
            for each in policy["bindings"]
            if each["role"] in named
        ]

    def may(self, action, path):
        return any(
            f"gs://bucket/lake/{path}".startswith(folder) and fits(condition, path)
            for folder, condition in self.bindings("folders", ON_GOOGLE[action])
        )

    def tables(self):
        return {table for table, _ in self.bindings("tables", "bigtable.tables.mutateRows")}


def fits(condition, path):
    """Evaluate a condition of Google's on the name of an object, in the forms that policies have."""
    name = f"projects/_/buckets/bucket/objects/lake/{path}"
    return not condition or any(fits_term(term, name) for term in condition.split(" || "))


def fits_term(term, name):
    if ending := re.fullmatch(r'resource\.name\.endsWith\("([^"{}]+)"\)', term):
        return name.endswith(ending[1])
    head, tail = re.fullmatch(r'resource\.name\.extract\("([^"{}]+){any}([^"{}]+)"\) != ""', term).groups()
    return tail in name.partition(head)[2][1:]


CLOUDS = pytest.mark.parametrize("cloud", [Aws, Google])


@pytest.mark.parametrize("job", jobs())
def test_policy_of_every_job_is_valid_for_aws(known, job):
    assert findings(Aws(known, job)) == []


def findings(policy):
    return [str(finding) for finding in parliament.analyze_policy_string(json.dumps(policy.document)).findings]


def test_policies_of_all_jobs_are_valid_for_google(known):
    """Google's own messages take them; conditions stay below its limits, and names of accounts are possible."""
    document = Google(known).document
    policies = [*document["folders"].values(), *document["tables"].values()]
    for policy in policies:
        parsed = json_format.ParseDict(policy, policy_pb2.Policy())
        conditions = [binding.condition for binding in parsed.bindings if binding.HasField("condition")]
        assert len(conditions) < 100
        assert all(0 < len(condition.title) <= 100 for condition in conditions)
        assert all(condition.expression.count("||") <= 12 for condition in conditions)
    members = {member for policy in policies for binding in policy["bindings"] for member in binding["members"]}
    assert members == {f"serviceAccount:{name}@project-1.iam.gserviceaccount.com" for name in document["accounts"]}
    assert {job.replace("_", "-") for job in jobs()} < set(document["accounts"])
    assert all(url.endswith("/") for url in document["folders"])


def test_condition_of_google_has_at_most_13_terms(known):
    bindings = {}
    google_policy.allow(bindings, "m", google_policy.READ, [f"a/*/{task}/" for task in range(27)], "gs://bucket/lake")
    conditions = [condition for _, _, condition in bindings if condition]
    assert [condition.count("||") for condition in conditions] == [12, 12, 0]
    assert sum(fits(condition, "a/run/26/x") for condition in conditions) == 1


def test_name_that_google_refuses_for_an_account_is_refused(known):
    with pytest.raises(ArgumentError, match="'build-interactions-of-all-users-and-items' can't be a service account"):
        google_policy.account("build_interactions_of_all_users_and_items")


@CLOUDS
@pytest.mark.parametrize("job", jobs())
def test_no_job_writes_files_of_another(known, job, cloud):
    policy = cloud(known, job)
    own = {(task.pipeline, task.task) for task in known if task.job == job}
    for task in known:
        manifest = f"intermediate/{task.pipeline}/run/{task.task}/manifest.json"
        for action in (WRITE, DELETE):
            assert policy.may(action, manifest) == ((task.pipeline, task.task) in own)
    code = ("code/any/0123/main.py", f"code/{job}/0123/main.py", "releases/current.json", "dags/current.json")
    for path in (*code, "raw/events/x", "x"):
        assert not policy.may(WRITE, path)
        assert not policy.may(DELETE, path)
    assert not policy.may(READ, "releases/current.json")


@CLOUDS
@pytest.mark.parametrize("job", [job for job in jobs() if job != protocol.REPORT_TASK])
def test_job_reads_hand_overs_of_its_predecessors_only(known, job, cloud):
    policy = cloud(known, job)
    own = [task for task in known if task.job == job]
    readable = {(task.pipeline, name) for task in own for name in (task.task, *task.predecessors.values())}
    for task in known:
        manifest = f"intermediate/{task.pipeline}/run/{task.task}/map-3/manifest.json"
        assert policy.may(READ, manifest) == ((task.pipeline, task.task) in readable)


@pytest.mark.parametrize(
    ("job", "action", "path", "allowed"),
    [
        ("ingest_events", READ, "raw/events/arrival=2011-06-01/a.jsonl", True),
        ("ingest_events", READ, "raw/items/arrival=2011-06-01/items.csv", False),
        ("ingest_events", READ, "code/ingest_events/0123/code.zip", True),
        ("ingest_events", READ, "code/build_interactions/0123/code.zip", False),
        ("ingest_events", WRITE, "curated/events/days.json", True),
        ("ingest_events", READ, "curated/events/ingested/2011-06.json", True),
        ("ingest_events", WRITE, "curated/events/ingested/2011-06.json", True),
        ("ingest_events", DELETE, "curated/events/ingested/2011-06.json", False),
        ("ingest_events", WRITE, "curated/events/date=2011-06-01/manifest.json", True),
        ("ingest_events", DELETE, "curated/events/date=2011-06-01/version=0-1-aa/part", True),
        ("ingest_events", DELETE, "curated/events/_temporary/0/part", True),
        ("ingest_events", DELETE, "curated/events/date=2011-06-01/manifest.json", False),
        ("ingest_events", WRITE, "curated/items/all/manifest.json", False),
        ("ingest_events", READ, "suppression/key", True),
        ("ingest_users", WRITE, "suppression/users", False),
        ("ingest_users", READ, "curated/user_changes/all/version=0-1-aa/part", True),
        ("ingest_users", WRITE, "curated/user_changes/all/manifest.json", True),
        ("ingest_users", WRITE, "curated/users/ingested/2011-06.json", True),
        ("ingest_items", READ, "suppression/key", False),
        ("build_interactions", READ, "curated/events/days.json", True),
        ("build_interactions", WRITE, "curated/events/days.json", False),
        ("build_interactions", WRITE, "logs/spark/eventlog_v2_application_1/events_1.zstd", True),
        ("train_recommender", WRITE, "logs/spark/eventlog_v2_application_1/events_1.zstd", False),
        ("report_run", WRITE, "products/reports/cards/trending_items/2011-06/a.html", True),
        ("report_run", READ, "intermediate/trending_items/r/write_product/attempt-1/scheduler.json", True),
        ("report_run", WRITE, "intermediate/trending_items/r/write_product/attempt-1/scheduler.json", False),
        ("report_run", READ, "curated/events/date=2011-06-01/manifest.json", True),
        ("report_run", READ, "curated/events/date=2011-06-01/version=0-1-aa/part", False),
        ("report_run", READ, "curated/items/all/version=0-1-aa/part", True),
        ("report_run", READ, "curated/events/ingested/2011-06.json", True),
        ("report_run", READ, "suppression/key", False),
        ("write_product", READ, "products/reports/cards/trending_items/2011-06/a.html", False),
    ],
)
@CLOUDS
def test_levels_of_the_lake_are_open_as_needed(known, cloud, job, action, path, allowed):
    policy = cloud(known, job)
    if cloud is Google and action == DELETE:  # there a writer must be able to delete, or it can replace nothing
        allowed = policy.may(WRITE, path)
    assert policy.may(action, path) == allowed


@pytest.mark.parametrize(
    ("job", "action", "allowed"),
    [("build_interactions", WRITE, True), ("build_interactions", READ, False), ("train_recommender", WRITE, False)],
)
def test_spark_jobs_write_logs_of_emr(known, job, action, allowed):
    assert Aws(known, job).may(action, "logs/emr/j-1/steps/s-1/stderr.gz") == allowed


@pytest.mark.parametrize("job", jobs())
def test_listing_is_limited_to_readable_folders(known, job):
    aws = Aws(known, job)
    (statement,) = [each for each in aws.document["Statement"] if each["Sid"] == "List"]
    prefixes = statement["Condition"]["StringLikeIfExists"]["s3:prefix"]
    assert {f"arn:aws:s3:::bucket/{prefix}" for prefix in prefixes} <= aws.resources("s3:GetObject")
    google = Google(known, job)
    readable = {folder for folder, _ in google.bindings("folders", "storage.objects.get")}
    assert set(google.bindings("folders", "storage.objects.list")) == {(folder, "") for folder in readable}


@CLOUDS
@pytest.mark.parametrize("job", ["write_product", "publish_product"])
def test_publishing_jobs_use_tables_of_their_products(known, job, cloud):
    assert cloud(known, job, "trending_items").tables() == {f"{PREFIX}trending_items"}
    every = ("characteristics", "recommendations", "similar_items", "trending_items")
    assert cloud(known, job).tables() == {f"{PREFIX}{name}" for name in every}
    assert cloud(known, "ingest_events").tables() == set()


@CLOUDS
def test_report_on_a_pipeline_reads_rows_of_no_other(known, cloud):
    policy = cloud(known, protocol.REPORT_TASK, "trending_items")
    for pipeline, readable in (("trending_items", True), ("daily_recommendations", False)):
        assert policy.may(READ, f"intermediate/{pipeline}/r/task/attempt-1/aa/rows/part") == readable
        assert policy.may(READ, f"intermediate/{pipeline}/r/task/manifest.json")


@CLOUDS
def test_nodes_of_a_pipeline_get_rights_of_its_spark_jobs(known, cloud):
    policy = cloud(known, pipeline="daily_recommendations")
    for task in known:
        path = f"intermediate/{task.pipeline}/r/{task.task}/part"
        own = (task.pipeline, task.job) == ("daily_recommendations", "build_interactions")
        assert policy.may(WRITE, path) == own


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
        Aws(known, job, pipeline)


@pytest.mark.parametrize("key", ["0f7c-id", "arn:aws:kms:*:*:key/0f7c-id"])
def test_key_of_the_lake_is_usable_through_s3_only(known, key):
    policy = Aws(known, "ingest_events", key=key)
    assert findings(policy) == []
    for action in ("kms:GenerateDataKey", "kms:Decrypt"):
        assert policy.resources(action) == {"arn:aws:kms:*:*:key/0f7c-id"}
    (statement,) = [each for each in policy.document["Statement"] if each["Sid"] == "Encrypt"]
    assert statement["Condition"] == {"StringLike": {"kms:ViaService": "s3.*.amazonaws.com"}}


def test_alias_of_a_key_is_refused(known):
    with pytest.raises(ArgumentError, match=r"the alias alias/lake, .* give the key's ID or ARN"):
        Aws(known, "ingest_events", key="alias/lake")


@pytest.mark.parametrize(
    ("store", "expected", "good"),
    [
        ("dynamodb:", "dynamodb:", True),
        ("redis:", "dynamodb:", True),
        ("bigtable://p/i", "bigtable:", True),
        ("dynamodb:", "bigtable:", False),
    ],
)
def test_tables_on_another_cloud_than_the_lake_are_refused(store, expected, good):
    with contextlib.nullcontext() if good else pytest.raises(ArgumentError, match="add the rights on the tables"):
        iam_policy.check_store(store, expected, "gs://lake")


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
