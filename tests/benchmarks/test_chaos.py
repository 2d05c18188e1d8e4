"""The independent reader of the chaos run finds each broken promise, and nothing in an intact lake."""

import contextlib
import datetime
import gzip
import io
import json
import os
import subprocess
import sys
import time
import uuid
import zlib
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.config import Config
from events import event

from benchmarks import chaos_check, chaos_plan, chaos_processes
from benchmarks.chaos_check import Ledger, Published, Reader, Switch
from benchmarks.chaos_servers import DynamoDBProxy, Publications, S3Proxy
from tools.sandbox.faulty_proxy import proxy

SECRET = "a-secret-of-this-run"
DAY = "2025-01-01"
RUN = "daily_recommendations/chaos-0000-events-1"
TASKS = f"lake/intermediate/{RUN}"
EVENTS = f"lake/curated/events/date={DAY}"
USERS = "lake/curated/users/all"


def event_of_day(number, **changed):
    return event(number, DAY, **{"user_id": "u1", "item_id": "10000", **changed})


def packed_rows(*item_ids):
    """Return the content of an item as an attribute; written here, because it checks what the product writes."""
    return {"B": zlib.compress(json.dumps([{"item_id": each} for each in item_ids]).encode())}


class Lake:
    """A small lake and table that keep all promises, to be broken by a test."""

    def __init__(self, s3, dynamodb, folder):
        self.s3, self.dynamodb = s3, dynamodb
        self.bucket = f"b{uuid.uuid4().hex}"
        self.table = f"t{uuid.uuid4().hex}"
        self.folder = folder
        self.s3.create_bucket(Bucket=self.bucket)
        names = {"part": "HASH", "id": "RANGE"}
        self.dynamodb.create_table(
            TableName=self.table,
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
            KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in names.items()],
            BillingMode="PAY_PER_REQUEST",
        )
        self.reader = Reader(self.s3, self.bucket, "lake", self.dynamodb, self.table)
        self.ledger = Ledger()
        self.history = []
        self.switches = []
        self.processes = []
        self.instances = [(f"{TASKS}/select", "success", 1)]
        self.fill()

    def put(self, key, content):
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=content)

    def get(self, key):
        return self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def damage(self, key):
        self.put(key, b"x" * len(self.get(key)))

    def delete(self, key):
        self.s3.delete_object(Bucket=self.bucket, Key=key)

    def deliver(self, name, lines):
        content = lines.encode() if name.endswith(".csv") else gzip.compress(lines.encode())
        self.put(f"lake/raw/{name}", content)
        self.ledger.deliver(f"lake/raw/{name}", content)

    def publish(self, folder, role, rows, file="version=1/part-0.parquet", parents=(), shard=None, **more):
        """Publish a manifest with one output of one file below a folder; no output if rows is None."""
        outputs = {}
        if rows is not None:
            buffer = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(rows), buffer)
            self.put(f"{folder}/{file}", buffer.getvalue())
            files = [{"path": file, "bytes": len(buffer.getvalue())}]
            outputs[role] = {"rows": len(rows), "files": files}
        document = {
            "task": {"run_id": "r", "attempt": 1, "map_index": shard, "map_count": None if shard is None else 2},
            "outputs": outputs,
            "metrics": {},
            "ended": "2025-01-03T00:00:00+00:00",
            "parents": [
                {"uri": f"s3://{self.bucket}/{key}", "digest": chaos_check.digest(self.get(key))} for key in parents
            ],
            **more,
        }
        self.manifest(folder, document)

    def manifest(self, folder, document):
        content = json.dumps(document).encode()
        self.put(f"{folder}/manifest.json", content)
        self.history.append(Published(f"{folder}/manifest.json", time.time(), content))

    def change(self, folder, change):
        """Rewrite a manifest unnoticed."""
        document = json.loads(self.get(f"{folder}/manifest.json"))
        change(document)
        self.put(f"{folder}/manifest.json", json.dumps(document).encode())

    def fill(self):
        lines = [json.dumps(event_of_day(number)) for number in (1, 2, 2, 3)] + ['{"event_id": "e9"']
        self.deliver("events/arrival=2025-01-02/a.jsonl.gz", "\n".join(lines) + "\n")
        change = {"user_id": "u1", "time": f"{DAY}T00:00:00Z", "change": "subscribe", "plan": "basic"}
        self.deliver("users/arrival=2025-01-02/u.jsonl.gz", json.dumps(change) + "\n")
        self.deliver("items/arrival=2025-01-02/i.csv", "item_id,description,seen\n10000,RED MUG,2025-01-01\n")
        self.publish(EVENTS, "events", rows_of_events(1, 2, 3))
        self.put("lake/curated/events/days.json", json.dumps({"days": [DAY]}).encode())
        self.publish(USERS, "users", [{"user_id": "u1"}], metrics={"lines": 1}, basis="2025-01-03T00:00:00+00:00")
        self.publish("lake/curated/items/all", "items", [{"item_id": "10000"}])
        bad = [{"file": f"s3a://{self.bucket}/lake/raw/events/arrival=2025-01-02/a.jsonl.gz", "line": 5}]
        self.publish(f"{TASKS}/ingest_events", "quarantine", bad, "attempt-1/q.parquet", metrics={"unusable": 1})
        made = [f"{EVENTS}/manifest.json"]
        for shard in (0, 1):
            folder = f"{TASKS}/predict/map-{shard}"
            self.publish(folder, "predictions", [{"user_id": f"u{shard}"}], "attempt-1/p.parquet", made, shard)
        shown = [{"user_id": "u1", "rank": rank, "item_id": str(rank)} for rank in (1, 2)]
        shown.append({"user_id": None, "rank": 1, "item_id": "1"})
        parents = [f"{TASKS}/predict/map-{shard}/manifest.json" for shard in (0, 1)]
        self.publish(f"{TASKS}/select", "recommendations", shown, "attempt-1/r.parquet", parents)
        self.publish(f"{TASKS}/publish", "none", None, parents=[f"{TASKS}/select/manifest.json"])
        self.version("v1", "2025-01-03T00:00:00+00:00")
        self.switches = [Switch(time.time(), "v1", "2025-01-03T00:00:00+00:00", None)]
        (self.folder / "log").write_text("nothing")

    def version(self, name, computed):
        uri = f"s3://{self.bucket}/{TASKS}/select/manifest.json"
        described = {"version": {"S": name}, "computed": {"S": computed}, "manifest": {"S": uri}}
        described |= {"items": {"N": "1"}, "buckets": {"N": "2"}}
        content = packed_rows("1", "2")
        self.item(f"{name}/{zlib.crc32(b'u1') % 2}", "u1", content=content)
        self.item("versions", name, **described)
        self.item("current", "current", **described)

    def item(self, part, key, **attributes):
        self.dynamodb.put_item(TableName=self.table, Item={"part": {"S": part}, "id": {"S": key}, **attributes})

    def update(self, part, key, name, value):
        self.dynamodb.update_item(
            TableName=self.table,
            Key={"part": {"S": part}, "id": {"S": key}},
            UpdateExpression="SET #name = :value",
            ExpressionAttributeNames={"#name": name},
            ExpressionAttributeValues={":value": value},
        )

    def broken(self):
        """Return the promises that the reader finds broken."""
        reader, files = self.reader, [*self.ledger.files]
        listing = reader.listing()
        found = chaos_check.manifests(reader, listing)
        chaos_check.check_files(reader, listing, found)
        chaos_check.check_history(reader, self.history)
        chaos_check.check_days(reader, found)
        chaos_check.check_chain(reader, found, RUN, self.history)
        chaos_check.check_events(reader, listing, found, self.ledger, files, files)
        ingest = f"{TASKS}/ingest_events/manifest.json"
        lines = chaos_check.check_quarantine(reader, listing, ingest, found[ingest], self.ledger, files)
        chaos_check.check_quarantined(reader, self.ledger, files, lines)
        chaos_check.check_replaced(reader, listing, found, self.ledger, "users", self.ledger.users)
        chaos_check.check_replaced(reader, listing, found, self.ledger, "items", self.ledger.items)
        chaos_check.check_switches(reader, self.switches)
        item = chaos_check.pointer(reader)
        chaos_check.check_version(reader, item)
        chaos_check.check_listed(reader, item)
        chaos_check.check_product(reader, listing, found, item)
        for instance in self.instances:
            chaos_check.check_instance(reader, found, *instance)
        held = [key.rpartition("/")[0] for key in found]
        chaos_check.check_left(reader, listing, self.processes, held)
        chaos_check.check_secrets(reader, [self.folder], [SECRET])
        return {violation.promise for violation in reader.violations}


@pytest.fixture(scope="module")
def clients(moto):
    keys = {"aws_access_key_id": "tests", "aws_secret_access_key": "tests", "region_name": "us-east-1"}
    return [boto3.Session().client(name, endpoint_url=moto, **keys) for name in ("s3", "dynamodb")]


@pytest.fixture
def whole(clients, tmp_path):
    return Lake(*clients, tmp_path)


def rows_of_events(*numbers, **changed):
    time = chaos_check.moment(f"{DAY}T10:00:00Z")
    return [{**event_of_day(number, **changed), "time": time} for number in numbers]


def set_entry(name, value):
    """Return a change of the only output of a manifest."""

    def change(document):
        next(iter(document["outputs"].values()))[name] = value

    return change


def republish_users(lake, attempt=1, run="r", **given):
    document = {"task": {"run_id": run, "attempt": attempt}, "outputs": {}, "parents": [], **given}
    lake.history.append(Published(f"{USERS}/manifest.json", time.time(), json.dumps(document).encode()))


def republish_task(lake, attempt):
    document = {"task": {"run_id": "r", "attempt": attempt}, "outputs": {}, "parents": []}
    lake.history.append(Published(f"{TASKS}/select/manifest.json", time.time(), json.dumps(document).encode()))


def switch(lake, version, computed, rollback_started=None):
    lake.switches.append(Switch(time.time(), version, computed, rollback_started))


def switch_after_rollback(lake, computed):
    switch(lake, "v2", "2025-01-04T00:00:00+00:00")
    switch(lake, "v1", "2025-01-03T00:00:00+00:00", chaos_check.seconds("2025-01-05T00:00:00+00:00"))
    switch(lake, "v3", computed)


def upload(lake, key):
    lake.s3.create_multipart_upload(Bucket=lake.bucket, Key=key)


USER_PART = f"v1/{zlib.crc32(b'u1') % 2}"
NOTHING_ELSE = [{"user_id": "u2"}]
BREAKS = {
    "a file is gone": ("files exist", lambda lake: lake.delete(f"{EVENTS}/version=1/part-0.parquet")),
    "a file was cut": ("files exist", lambda lake: lake.put(f"{TASKS}/select/attempt-1/r.parquet", b"PAR1")),
    "a file of another folder": (
        "files exist",
        lambda lake: lake.change(USERS, set_entry("files", [{"path": "../x", "bytes": 1}])),
    ),
    "a file without a table": (
        "files can be read",
        lambda lake: lake.damage(f"{TASKS}/select/attempt-1/r.parquet"),
    ),
    "a wrong number of rows": ("numbers of rows are right", lambda lake: lake.change(USERS, set_entry("rows", 7))),
    "a parent was replaced": ("parents agree", lambda lake: lake.change(f"{TASKS}/select", lambda d: d.update(x=1))),
    "a parent that never existed": (
        "parents agree",
        lambda lake: lake.publish(f"{TASKS}/publish", "none", None, parents=["lake/curated/events/days.json"]),
    ),
    "a shard is missing": ("all shards exist", lambda lake: lake.delete(f"{TASKS}/predict/map-1/manifest.json")),
    "shards of two models": (
        "shards have the same parents",
        lambda lake: lake.publish(f"{TASKS}/predict/map-1", "predictions", [{"user_id": "u1"}], shard=1),
    ),
    "an event is lost": ("no event is lost", lambda lake: lake.publish(EVENTS, "events", rows_of_events(1, 2))),
    "an event is doubled": (
        "no event is doubled",
        lambda lake: lake.publish(EVENTS, "events", rows_of_events(1, 2, 3, 3)),
    ),
    "an event was changed": (
        "events are as delivered",
        lambda lake: lake.publish(EVENTS, "events", rows_of_events(1, 2, 3, quantity=9)),
    ),
    "an event is in another day": (
        "events are in their day",
        lambda lake: lake.publish("lake/curated/events/date=2025-01-02", "events", rows_of_events(1)),
    ),
    "a day is not registered": (
        "all days are registered",
        lambda lake: lake.put("lake/curated/events/days.json", b'{"days":[]}'),
    ),
    "a malformed line is not quarantined": (
        "quarantine is exact",
        lambda lake: lake.publish(f"{TASKS}/ingest_events", "quarantine", [], metrics={"unusable": 0}),
    ),
    "a wrong count of quarantined lines": (
        "quarantine is exact",
        lambda lake: lake.change(f"{TASKS}/ingest_events", lambda d: d["metrics"].update(unusable=2)),
    ),
    "a user is missing": (
        "no newer result is overwritten",
        lambda lake: lake.publish(USERS, "users", NOTHING_ELSE, metrics={"lines": 1}),
    ),
    "an item is missing": (
        "no newer result is overwritten",
        lambda lake: lake.publish("lake/curated/items/all", "items", [{"item_id": "2"}]),
    ),
    "no users were published": ("no newer result is overwritten", lambda lake: lake.delete(f"{USERS}/manifest.json")),
    "users of fewer deliveries": (
        "no newer result is overwritten",
        lambda lake: republish_users(lake, run="s", metrics={"lines": 0}),
    ),
    "users of older deliveries": (
        "no newer result is overwritten",
        lambda lake: republish_users(lake, run="s", metrics={"lines": 1}, basis="2025-01-02T00:00:00+00:00"),
    ),
    "an older attempt of a dataset": (
        "no newer attempt is overwritten",
        lambda lake: republish_users(lake, attempt=0, metrics={"lines": 1}),
    ),
    "an attempt published twice": ("no newer attempt is overwritten", lambda lake: republish_task(lake, 1)),
    "a day that shrank": (
        "days only grow",
        lambda lake: lake.publish(EVENTS, "events", rows_of_events(1, 2), "version=2/part-0.parquet"),
    ),
    "an older version": (
        "the pointer moves to newer versions",
        lambda lake: switch(lake, "v0", "2025-01-02T00:00:00+00:00"),
    ),
    "a rollback that was undone": (
        "rollbacks last",
        lambda lake: switch_after_rollback(lake, "2025-01-04T12:00:00+00:00"),
    ),
    "a rollback to an unknown version": (
        "rollbacks restore versions",
        lambda lake: switch(lake, "v9", "2025-01-02T00:00:00+00:00", time.time()),
    ),
    "an item of a version is gone": (
        "versions are complete",
        lambda lake: lake.dynamodb.delete_item(TableName=lake.table, Key={"part": {"S": USER_PART}, "id": {"S": "u1"}}),
    ),
    "an item in another bucket": (
        "versions are complete",
        lambda lake: lake.item(f"v1/{1 - zlib.crc32(b'u1') % 2}", "u1", content=packed_rows()),
    ),
    "an item that expires": (
        "live versions never expire",
        lambda lake: lake.update(USER_PART, "u1", "expires", {"N": "1"}),
    ),
    "a version that expires": (
        "live versions never expire",
        lambda lake: lake.update("versions", "v1", "kept_until", {"N": "1"}),
    ),
    "a version that is not listed": (
        "versions are listed",
        lambda lake: lake.dynamodb.delete_item(
            TableName=lake.table, Key={"part": {"S": "versions"}, "id": {"S": "v1"}}
        ),
    ),
    "other rows than computed": (
        "versions contain their rows",
        lambda lake: lake.item(USER_PART, "u1", content=packed_rows("9")),
    ),
    "success without a manifest": (
        "success has a manifest",
        lambda lake: lake.instances.append((f"{TASKS}/train", "success", 1)),
    ),
    "success of another attempt": (
        "success has a manifest",
        lambda lake: lake.instances.append((f"{TASKS}/select", "success", 2)),
    ),
    "a process is left": ("no process is left", lambda lake: lake.processes.append("process 7")),
    "an upload is left": ("no upload is left", lambda lake: upload(lake, f"{TASKS}/select/attempt-1/x/file")),
    "a temporary object is left": (
        "no temporary object is left",
        lambda lake: lake.put(f"{TASKS}/select/attempt-1/_temporary/0/x", b""),
    ),
    "a secret in a log": ("no secret is written", lambda lake: (lake.folder / "log").write_text(f"key {SECRET}")),
    "a secret in a compressed file": (
        "no secret is written",
        lambda lake: (lake.folder / "x.gz").write_bytes(gzip.compress(SECRET.encode())),
    ),
}


def test_whole_lake_has_no_violation(whole):
    assert whole.broken() == set()
    assert len(whole.reader.checks) >= 20


@pytest.mark.parametrize("case", BREAKS)
def test_broken_promise_is_found(whole, case):
    promise, break_it = BREAKS[case]
    break_it(whole)
    assert promise in whole.broken()


def test_every_promise_has_a_case(whole):
    whole.broken()
    switch_after_rollback(whole, "2025-01-06T00:00:00+00:00")
    republish_users(whole, run="s", metrics={"lines": 1})
    whole.publish(EVENTS, "events", rows_of_events(1, 2, 3))
    whole.broken()
    assert set(whole.reader.checks) == {promise for promise, _ in BREAKS.values()} | {"files do not change"}


def test_overwritten_file_is_found(whole):
    assert whole.broken() == set()
    whole.damage(f"{USERS}/version=1/part-0.parquet")
    assert "files do not change" in whole.broken()


def test_rollback_lasts_until_a_newer_version(whole):
    switch_after_rollback(whole, "2025-01-06T00:00:00+00:00")
    assert whole.broken() == set()


@pytest.mark.parametrize(
    "changed",
    [
        {"event_id": ""},
        {"item_id": None},
        {"type": "refund"},
        {"quantity": 0},
        {"quantity": 1.5},
        {"quantity": True},
        {"unit_price": -1},
        {"unit_price": "1"},
        {"time": "yesterday"},
        {"time": 1735725600000},
        {"time": "2034-01-01T00:00:00Z"},
    ],
)
def test_unusable_event_is_not_expected(changed):
    arrival = datetime.date(2025, 1, 2)
    assert chaos_check.is_usable(event_of_day(1), arrival)
    assert not chaos_check.is_usable(event_of_day(1, **changed), arrival)


def test_checker_imports_nothing_of_the_product():
    text = Path(chaos_check.__file__).read_text()
    code = (
        "import sys; import benchmarks.chaos_check; print([m for m in sys.modules if m.split('.')[0] in sys.argv[1:]])"
    )
    command = [sys.executable, "-c", code, "common", "jobs", "tools", "airflow_dags"]
    environment = {**os.environ, "PYTHONPATH": str(Path(chaos_check.__file__).parents[1])}
    assert "common" in text
    assert subprocess.run(command, capture_output=True, text=True, env=environment).stdout.strip() == "[]"


def test_same_seed_gives_the_same_schedule():
    assert chaos_plan.digest(7, 3, 200) == chaos_plan.digest(7, 3, 200)
    assert chaos_plan.digest(7, 3, 200) != chaos_plan.digest(8, 3, 200)


def test_every_kind_of_fault_is_in_a_schedule():
    rounds = range(60)
    strikes = [
        chaos_plan.strike(1, number, run, task, shard, 1)
        for number in rounds
        for run, dag in (("events-1", "ingest_events"), ("recommend", "daily_recommendations"))
        for task, shard in chaos_plan.TASKS[dag]
    ]
    assert {each.kind for each in strikes if each} == set(chaos_plan.STRIKES)
    assert {each.moment for each in strikes if each} == {*chaos_plan.MOMENTS, *chaos_plan.POINTER_MOMENTS}
    for server, kinds in (("s3", chaos_plan.REQUEST_FAULTS), ("dynamodb", chaos_plan.DYNAMODB_FAULTS)):
        assert {chaos_plan.request_fault(1, 0, server, request) for request in range(3_000)} == {None, *kinds}
    operations = {each.kind for number in rounds for each in chaos_plan.round_of(1, number).operations}
    assert operations == {kind for kind, _ in chaos_plan.OPERATIONS}


@pytest.mark.parametrize("between", [" ", "="])
def test_process_of_a_lake_is_found_with_its_task(between):
    given = {"lake": "s3://x/y", "dag-id": "d", "run-id": "r", "task-id": "t", "attempt": "2", "map-index": "3"}
    identity = " ".join(f"--{name}{between}{value}" for name, value in given.items()).split()
    command = [sys.executable, "-c", "import time; time.sleep(60)", *identity]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        while not (processes := list(chaos_processes.running("s3://x/y"))):  # a new process may be missing in /proc
            time.sleep(0.01)
        (found,) = processes
        assert (found.pid, found.parent) == (process.pid, os.getpid())
        assert found.identity == ("d", "r", "t", 3, 2)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def behind_proxy(whole, moto):
    """A client of DynamoDB behind a proxy that fails by a schedule, and the publications that it recorded."""

    def make(fault):
        publications = Publications()
        between = stack.enter_context(
            proxy(moto, lambda url: DynamoDBProxy(url, fault=fault, publications=publications, reader=whole.reader))
        )
        keys = {"aws_access_key_id": "tests", "aws_secret_access_key": "tests", "region_name": "us-east-1"}
        once = Config(retries={"max_attempts": 1, "mode": "standard"})
        return boto3.Session().client("dynamodb", endpoint_url=between.url, config=once, **keys), publications

    with contextlib.ExitStack() as stack:
        yield make


def test_partial_batch_writes_half_and_returns_the_rest(whole, behind_proxy):
    client, _ = behind_proxy(lambda number: "partial")
    items = [{"part": {"S": "p"}, "id": {"S": str(number)}} for number in range(4)]
    response = client.batch_write_item(RequestItems={whole.table: [{"PutRequest": {"Item": item}} for item in items]})
    left = [each["PutRequest"]["Item"] for each in response["UnprocessedItems"][whole.table]]
    assert chaos_check.items_of(whole.reader, "p") == items[:2]
    assert left == items[2:]


@pytest.mark.parametrize("kind", ["throttled", "partial"])
def test_throttled_request_is_refused_as_by_dynamodb(whole, behind_proxy, kind):
    client, _ = behind_proxy(lambda number: kind)
    with pytest.raises(client.exceptions.ProvisionedThroughputExceededException):
        client.get_item(TableName=whole.table, Key={"part": {"S": "current"}, "id": {"S": "current"}})


@pytest.mark.parametrize("in_transaction", [False, True])
def test_switch_is_recorded_and_its_version_checked(whole, behind_proxy, in_transaction):
    client, publications = behind_proxy(lambda number: None)
    item = {**chaos_check.pointer(whole.reader), "version": {"S": "v7"}}
    put = {"TableName": whole.table, "Item": item}
    if in_transaction:
        client.transact_write_items(TransactItems=[{"Put": put}])
    else:
        client.put_item(**put)
    assert [switch.version for switch in publications.switches] == ["v7"]
    assert {violation.promise for violation in whole.reader.violations} == {"versions are complete"}


def test_switch_of_another_product_is_not_recorded(whole, behind_proxy):
    client, publications = behind_proxy(lambda number: None)
    other = f"{whole.table}-other"
    client.create_table(
        TableName=other,
        KeySchema=[{"AttributeName": "part", "KeyType": "HASH"}, {"AttributeName": "id", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("part", "id")],
        BillingMode="PAY_PER_REQUEST",
    )
    client.put_item(TableName=other, Item={**chaos_check.pointer(whole.reader), "version": {"S": "v7"}})
    assert publications.switches == []
    assert whole.reader.violations == []


def test_manifest_is_recorded_despite_a_lost_response(whole, moto):
    kinds = iter(["lost", "cut"])
    publications = Publications()
    key = f"{TASKS}/noted/manifest.json"
    content = json.dumps({"task": {"attempt": 1}}).encode()
    with proxy(
        moto, lambda url: S3Proxy(url, fault=lambda number: next(kinds, None), publications=publications)
    ) as between:
        keys = {"aws_access_key_id": "tests", "aws_secret_access_key": "tests", "region_name": "us-east-1"}
        style = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 3, "mode": "standard"})
        client = boto3.Session().client("s3", endpoint_url=between.url, config=style, **keys)
        client.put_object(Bucket=whole.bucket, Key=key, Body=content)
    assert {(each.key, each.content) for each in publications.manifests} == {(key, content)}
    assert between.counts["lost"] == 1
