"""An independent reader of a lake and of a product's table, which checks the promises of the documents.

It imports nothing from common, jobs or tools: shared code would hide its own faults.
"""

import contextlib
import datetime
import gzip
import hashlib
import io
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Listing = dict[str, tuple[str, int]]  # of the bucket: ETag and size by key
Event = tuple[str, str]  # its date and its ID


@dataclass(frozen=True)
class Violation:
    """A broken promise, the place, and the evidence."""

    promise: str
    where: str
    found: str


@dataclass(frozen=True)
class Published:
    """A manifest as sent to the server: key, time, content."""

    key: str
    time: float
    content: bytes


@dataclass(frozen=True)
class Switch:
    """A pointer as sent to the server; for a rollback, with the start of its command."""

    time: float
    version: str
    computed: str
    rollback_started: float | None


@dataclass
class Reader:
    """Clients of the lake and the table, cached contents, numbers of checks, violations."""

    s3: Any
    bucket: str
    prefix: str
    dynamodb: Any
    table: str
    checks: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    contents: dict[tuple[str, str], Any] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)

    def expect(self, promise: str, holds: bool, where: str, found: str) -> None:
        self.checks[promise] += 1
        if not holds and (violation := Violation(promise, where, found)) not in self.violations:
            self.violations.append(violation)

    def listing(self) -> Listing:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/")
        return {each["Key"]: (each["ETag"], each["Size"]) for page in pages for each in page.get("Contents", [])}

    def bytes_of(self, key: str) -> bytes:
        found: bytes = self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return found

    def key(self, uri: str) -> str:
        return uri.partition("://")[2].removeprefix(f"{self.bucket}/")

    def rows(self, key: str, etag: str) -> list[dict[str, Any]]:
        """Return the rows of a Parquet file, which is read once; no rows of a broken file."""
        if (key, etag) not in self.contents:
            rows: list[dict[str, Any]] = []
            problem = ""
            try:
                rows = pq.ParquetFile(io.BytesIO(self.bytes_of(key))).read().to_pylist()
            except (pa.ArrowInvalid, OSError) as error:
                problem = str(error)
            self.expect("files can be read", not problem, key, problem)
            self.contents[key, etag] = rows
        found: list[dict[str, Any]] = self.contents[key, etag]
        return found

    def document(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.bytes_of(key))
        return found


def manifests(reader: Reader, listing: Listing) -> dict[str, bytes]:
    """Return the manifests of tasks and partitions, by key."""
    return {key: reader.bytes_of(key) for key in listing if is_manifest(reader.prefix, key)}


def is_manifest(prefix: str, key: str) -> bool:
    levels = (f"{prefix}/intermediate/", f"{prefix}/curated/")
    return key.startswith(levels) and key.endswith("/manifest.json") and "/attempt-" not in key


def files_of(found: Mapping[str, bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield all files that manifests name, each with its folder."""
    for manifest, content in found.items():
        for output in json.loads(content)["outputs"].values():
            for file in output.get("files", []):
                yield manifest.rpartition("/")[0], file


def check_files(reader: Reader, listing: Listing, found: Mapping[str, bytes]) -> None:
    """Check that all files of manifests exist, unchanged, with the recorded sizes and numbers of rows."""
    for manifest, content in found.items():
        folder = manifest.rpartition("/")[0]
        for role, output in json.loads(content)["outputs"].items():
            rows = 0
            for file in output.get("files", []):
                key = f"{folder}/{file['path']}"
                etag, size = listing.get(key, ("", -1))
                exists = size == file["bytes"] and ".." not in file["path"].split("/")
                reader.expect("files exist", exists, manifest, f"{key} has {size} bytes, not {file['bytes']}")
                same = reader.named.setdefault(key, etag) == etag
                reader.expect("files do not change", same, manifest, f"{key} was {reader.named[key]}, is {etag}")
                rows += len(reader.rows(key, etag)) if exists and key.endswith(".parquet") else 0
            if output.get("files") and all(file["path"].endswith(".parquet") for file in output["files"]):
                claimed = output["rows"]
                reader.expect(
                    "numbers of rows are right", rows == claimed, f"{manifest} {role}", f"{rows}, not {claimed}"
                )


def check_chain(reader: Reader, found: Mapping[str, bytes], run: str, history: Iterable[Published]) -> None:
    """Check that all tasks of a successful run read its present results, and once published manifests of datasets.

    `run` is the run's folder below the intermediate level.
    """
    digests = defaultdict(set)
    for each in history:
        digests[each.key].add(digest(each.content))
    for key, content in found.items():
        if not key.startswith(f"{reader.prefix}/intermediate/{run}/"):
            continue
        document = json.loads(content)
        for parent in document["parents"]:
            at = reader.key(parent["uri"])
            fitting = {digest(found[at])} if at in found else set()
            if "/curated/" in at:
                fitting |= digests[at]
            reader.expect("parents agree", parent["digest"] in fitting, key, f"{at} was read as {parent['digest']}")
        count = document["task"]["map_count"]
        if count:
            task = key.rpartition("/map-")[0]
            siblings = [json.loads(found[other]) for other in found if other.startswith(f"{task}/map-")]
            whole = len(siblings) == count and {each["task"]["map_count"] for each in siblings} == {count}
            reader.expect("all shards exist", whole, task, f"{len(siblings)} of {count}")
            models = {repr(sorted((p["uri"], p["digest"]) for p in each["parents"])) for each in siblings}
            reader.expect("shards have the same parents", len(models) == 1, task, f"{len(models)} different parents")


def check_history(reader: Reader, history: Iterable[Published]) -> None:
    """Check that nothing newer was overwritten: attempts rise, days grow, replacements are based on more data."""
    before: dict[str, dict[str, Any]] = {}
    for each in history:
        document = json.loads(each.content)
        former = before.get(each.key)
        before[each.key] = document
        if former is None:
            continue
        where = f"{each.key} by {name(former)}, then {name(document)}"
        if "/intermediate/" in each.key:
            rising = former["task"]["attempt"] < document["task"]["attempt"]
            reader.expect("no newer attempt is overwritten", rising, where, "the attempt did not rise")
            continue
        if former["task"]["run_id"] == document["task"]["run_id"]:
            rising = former["task"]["attempt"] <= document["task"]["attempt"]
            reader.expect("no newer attempt is overwritten", rising, where, "an older attempt came later")
        if "/date=" in each.key:
            rows = [entry["rows"] for each in (former, document) for entry in each["outputs"].values()]
            reader.expect("days only grow", rows[0] <= rows[-1], where, f"{rows[0]} rows became {rows[-1]}")
            continue
        lines = [each["metrics"].get("lines", 0) for each in (former, document)]
        text = f"{lines[0]} lines of deliveries became {lines[1]}"
        reader.expect("no newer result is overwritten", lines[0] <= lines[1], where, text)
        basis = [each.get("basis") or "" for each in (former, document)]
        if all(basis):
            text = f"based on data of {basis[0]}, then of {basis[1]}"
            reader.expect("no newer result is overwritten", basis[0] <= basis[1], where, text)


def check_days(reader: Reader, found: Mapping[str, bytes]) -> None:
    """Check that all days with a manifest are registered."""
    folder = f"{reader.prefix}/curated/events/"
    published = {
        key.removeprefix(f"{folder}date=").partition("/")[0] for key in found if key.startswith(f"{folder}date=")
    }
    registered = set(reader.document(f"{folder}days.json")["days"]) if published else set()
    reader.expect(
        "all days are registered", published <= registered, folder, f"not registered: {sorted(published - registered)}"
    )


class Ledger:
    """Record of deliveries: usable events by date and ID, quarantined lines by file and number."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[dict[Event, list[dict[str, Any]]], set[int]]] = {}
        self.users: dict[str, set[str]] = {}
        self.lines: Counter[str] = Counter()
        self.items: dict[str, set[str]] = {}

    def deliver(self, key: str, content: bytes) -> None:
        if "/raw/items/" in key:
            rows = [line.split(",") for line in content.decode().splitlines()[1:]]
            self.items[key] = {row[0] for row in rows if len(row[1]) > 3 and row[1].isupper() and " " in row[1]}
            return
        lines = gzip.decompress(content).split(b"\n")[:-1]
        self.lines[key] = len(lines)
        if "/raw/users/" in key:
            changes = [parsed for line in lines if (parsed := in_json(line)).get("change") == "subscribe"]
            self.users[key] = {change["user_id"] for change in changes if "time" in change}
            return
        arrival = datetime.date.fromisoformat(key.partition("arrival=")[2][:10])
        usable: dict[Event, list[dict[str, Any]]] = defaultdict(list)
        quarantined = set()
        for number, line in enumerate(lines, 1):
            event = in_json(line)
            if is_usable(event, arrival):
                usable[str(moment(event["time"]).date()), event["event_id"]].append(event)
            else:
                quarantined.add(number)
        self.files[key] = (usable, quarantined)

    def events(self, files: Iterable[str]) -> dict[Event, list[dict[str, Any]]]:
        """Return the usable events of these files, each with its lines."""
        found: dict[Event, list[dict[str, Any]]] = defaultdict(list)
        for file in files:
            for event, lines in self.files.get(file, ({}, set()))[0].items():
                found[event] += lines
        return found

    def quarantined(self, files: Iterable[str]) -> set[tuple[str, int]]:
        return {(file, line) for file in files for line in self.files.get(file, ({}, set()))[1]}


def in_json(line: bytes) -> dict[str, Any]:
    """Parse a line; return {} if it is not exactly one JSON object."""
    try:
        found = json.loads(line.decode())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def moment(text: Any) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)


def is_usable(event: Mapping[str, Any], arrival: datetime.date) -> bool:
    """Return True if an event passes the rules of ingest_events."""
    try:
        day = moment(event["time"]).date()
        quantity, price = event["quantity"], event["unit_price"]
        return (
            all(isinstance(event[name], str) and event[name] for name in ("event_id", "item_id"))
            and event["type"] in ("purchase", "cancellation")
            and day <= arrival + datetime.timedelta(days=1)
            and type(quantity) is int
            and quantity > 0
            and type(price) in (int, float)
            and 0 <= price < 1e300
        )
    except (KeyError, TypeError, ValueError):
        return False


def check_events(
    reader: Reader,
    listing: Listing,
    found: Mapping[str, bytes],
    ledger: Ledger,
    before: Iterable[str],
    now: Iterable[str],
) -> None:
    """Check that each usable event delivered before exists once, in its day, as delivered, and no other event."""
    due, known = ledger.events(before), ledger.events(now)
    there: Counter[Event] = Counter()
    for manifest, content in found.items():
        folder, _, _ = manifest.rpartition("/")
        if "/curated/events/date=" not in manifest:
            continue
        day = folder.rpartition("date=")[2]
        for output in json.loads(content)["outputs"].values():
            for file in output["files"]:
                key = f"{folder}/{file['path']}"
                for row in reader.rows(key, listing[key][0]) if key in listing else []:
                    event = (str(row["time"].date()), row["event_id"])
                    there[event] += 1
                    reader.expect("events are in their day", event[0] == day, key, f"{event} is in {day}")
                    fits = any(agrees(row, line) for line in known.get(event, []))
                    reader.expect("events are as delivered", fits, key, f"{row} was never delivered")
    for event in due:
        reader.expect("no event is lost", there[event] > 0, str(event), "it was delivered, and does not exist")
    for event, count in there.items():
        reader.expect("no event is doubled", count == 1, str(event), f"it exists {count} times")


def agrees(row: Mapping[str, Any], line: Mapping[str, Any]) -> bool:
    names = ("user_id", "item_id", "type", "quantity", "unit_price", "country")
    return all(row[name] == line.get(name) for name in names) and row["time"] == moment(line["time"])


def check_quarantine(
    reader: Reader,
    listing: Listing,
    manifest: str,
    content: bytes,
    ledger: Ledger,
    now: Iterable[str],
) -> set[tuple[str, int]]:
    """Check that a run quarantined each line at most once, and no usable line; return the lines."""
    rows = rows_of(reader, listing, manifest, content, "quarantine")
    lines = Counter((reader.key(row["file"]), row["line"]) for row in rows)
    doubled = [line for line, count in lines.items() if count > 1]
    reader.expect("quarantine is exact", not doubled, manifest, f"more than once: {doubled[:3]}")
    wrong = sorted(lines.keys() - ledger.quarantined(now))
    reader.expect("quarantine is exact", not wrong, manifest, f"usable: {wrong[:3]}")
    claimed = json.loads(content)["metrics"]["unusable"]
    reader.expect("quarantine is exact", claimed == len(lines), manifest, f"{claimed} reported, {len(lines)} found")
    return set(lines)


def check_quarantined(reader: Reader, ledger: Ledger, before: Iterable[str], lines: set[tuple[str, int]]) -> None:
    """Check that the runs together quarantined each unusable line delivered before: each takes only new files."""
    missing = sorted(ledger.quarantined(before) - lines)
    reader.expect("quarantine is exact", not missing, "all runs", f"missing: {missing[:3]}")


def rows_of(reader: Reader, listing: Listing, manifest: str, content: bytes, role: str) -> list[dict[str, Any]]:
    """Return the rows of an output."""
    folder = manifest.rpartition("/")[0]
    keys = [f"{folder}/{file['path']}" for file in json.loads(content)["outputs"][role]["files"]]
    return [row for key in keys if key in listing for row in reader.rows(key, listing[key][0])]


def check_replaced(
    reader: Reader, listing: Listing, found: Mapping[str, bytes], ledger: Ledger, dataset: str, before: Iterable[str]
) -> None:
    """Check that users or items delivered before are in the dataset."""
    manifest = f"{reader.prefix}/curated/{dataset}/all/manifest.json"
    content = found.get(manifest)
    reader.expect("no newer result is overwritten", content is not None, manifest, "it does not exist")
    if content is None:
        return
    column, delivered = ("user_id", ledger.users) if dataset == "users" else ("item_id", ledger.items)
    there = {row[column] for row in rows_of(reader, listing, manifest, content, dataset)}
    missing = sorted(set().union(*(delivered.get(file, set()) for file in before)) - there)
    reader.expect("no newer result is overwritten", not missing, manifest, f"missing: {missing[:5]}")
    if dataset == "users":
        due = sum(ledger.lines[file] for file in before if file in ledger.users)
        lines = json.loads(content)["metrics"]["lines"]
        reader.expect("no newer result is overwritten", lines >= due, manifest, f"based on {lines} lines of {due}")


def check_switches(reader: Reader, switches: Iterable[Switch]) -> None:
    """Check that the pointer only moves to newer versions, except in rollbacks, which last until a newer version."""
    shown: set[str] = set()
    latest = None
    for each in switches:
        where = f"{reader.table} {each.version}"
        if each.rollback_started is not None:
            reader.expect("rollbacks restore versions", each.version in shown, where, "it was never live before")
        elif latest is not None and latest.rollback_started is not None:
            newer = seconds(each.computed) > latest.rollback_started
            reader.expect("rollbacks last", newer, where, f"published over the rollback to {latest.version}")
        elif latest is not None:
            newer = each.computed > latest.computed
            reader.expect("the pointer moves to newer versions", newer, where, f"published over {latest.version}")
        shown.add(each.version)
        latest = each


def seconds(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp()


def check_version(reader: Reader, item: Mapping[str, Any]) -> None:
    """Check that a version is complete: all its items exist in their buckets, and none expires."""
    version, buckets = item["version"]["S"], int(item["buckets"]["N"])
    items = [each for bucket in range(buckets) for each in items_of(reader, f"{version}/{bucket}")]
    claimed = int(item["items"]["N"])
    where = f"{reader.table} {version}"
    reader.expect("versions are complete", len(items) == claimed, where, f"{len(items)} items of {claimed}")
    ending = [each["id"]["S"] for each in items if "expires" in each]
    reader.expect("live versions never expire", not ending, where, f"items that expire: {ending[:3]}")
    misplaced = [each["id"]["S"] for each in items if bucket_of(each, buckets) != each["part"]["S"].rpartition("/")[2]]
    reader.expect("versions are complete", not misplaced, where, f"in the wrong bucket: {misplaced[:3]}")


def check_listed(reader: Reader, item: Mapping[str, Any]) -> None:
    """Check that the live version is listed, and does not expire."""
    version = item["version"]["S"]
    key = {"part": {"S": "versions"}, "id": {"S": version}}
    listed = reader.dynamodb.get_item(TableName=reader.table, Key=key, ConsistentRead=True).get("Item")
    where = f"{reader.table} {version}"
    reader.expect("versions are listed", listed is not None, where, "it is live, and not listed")
    ends = {name: listed[name] for name in ("kept_until", "expires") if name in (listed or {})}
    reader.expect("live versions never expire", not ends, where, f"it is live, and expires: {ends}")


def items_of(reader: Reader, part: str) -> list[dict[str, Any]]:
    pages = reader.dynamodb.get_paginator("query").paginate(
        TableName=reader.table,
        KeyConditionExpression="part = :part",
        ExpressionAttributeValues={":part": {"S": part}},
        ConsistentRead=True,
    )
    return [item for page in pages for item in page["Items"]]


def bucket_of(item: Mapping[str, Any], buckets: int) -> str:
    return str(zlib.crc32(item["id"]["S"].encode()) % buckets)


def pointer(reader: Reader) -> dict[str, Any] | None:
    key = {"part": {"S": "current"}, "id": {"S": "current"}}
    found: dict[str, Any] | None = reader.dynamodb.get_item(TableName=reader.table, Key=key, ConsistentRead=True).get(
        "Item"
    )
    return found


def check_product(reader: Reader, listing: Listing, found: Mapping[str, bytes], item: Mapping[str, Any]) -> None:
    """Check that the live version has the rows of its manifest, unless a later attempt has replaced that."""
    manifest = reader.key(item["manifest"]["S"])
    if manifest not in found or json.loads(found[manifest])["ended"] != item["computed"]["S"]:
        return
    expected: dict[str, list[str]] = defaultdict(list)
    for row in sorted(rows_of(reader, listing, manifest, found[manifest], "recommendations"), key=lambda r: r["rank"]):
        if row["user_id"] is not None:
            expected[row["user_id"]].append(row["item_id"])
    shown = {}
    for bucket in range(int(item["buckets"]["N"])):
        for each in items_of(reader, f"{item['version']['S']}/{bucket}"):
            shown[each["id"]["S"]] = [row["item_id"] for row in json.loads(zlib.decompress(each["content"]["B"]))]
    wrong = [user for user in expected.keys() | shown.keys() if expected.get(user) != shown.get(user)]
    reader.expect("versions contain their rows", not wrong, item["version"]["S"], f"other rows for {sorted(wrong)[:3]}")


def check_instance(reader: Reader, found: Mapping[str, bytes], key: str, state: str | None, attempt: int) -> None:
    """Check that a task that succeeded in Airflow has the manifest of its attempt."""
    if state == "success":
        manifest = found.get(f"{key}/manifest.json")
        published = json.loads(manifest)["task"]["attempt"] if manifest else None
        text = f"Airflow's attempt is {attempt}, the manifest's {published}"
        reader.expect("success has a manifest", published == attempt, key, text)


def check_left(reader: Reader, listing: Listing, processes: Iterable[str], held: Iterable[str]) -> None:
    """Check that no process, upload or temporary object is left. `held` are the keys with a manifest."""
    lines = list(processes)
    reader.expect("no process is left", not lines, "this machine", "; ".join(lines)[:1000])
    uploads = reader.s3.list_multipart_uploads(Bucket=reader.bucket).get("Uploads", [])
    done = [each["Key"] for each in uploads if any(each["Key"].startswith(f"{key}/") for key in held)]
    reader.expect("no upload is left", not done, reader.bucket, f"{len(done)}: {done[:3]}")
    temporary = [key for key in listing if "_temporary" in key or "__magic" in key]
    temporary = [key for key in temporary if any(key.startswith(f"{each}/") for each in held)]
    reader.expect("no temporary object is left", not temporary, reader.bucket, f"{len(temporary)}: {temporary[:3]}")


def check_secrets(reader: Reader, folders: Iterable[Path], secrets: Iterable[str], since: float = 0) -> None:
    """Check that no file changed since then below these folders contains a secret, compressed or not."""
    for folder in folders:
        for file in folder.rglob("*"):
            try:
                if not file.is_file() or file.is_symlink() or file.stat().st_mtime < since:
                    continue
                content = file.read_bytes()
            except FileNotFoundError:
                continue
            if content[:2] == b"\x1f\x8b":
                with contextlib.suppress(OSError, EOFError):
                    content += gzip.decompress(content)
            for secret in secrets:
                leaked = secret.encode() in content
                reader.expect("no secret is written", not leaked, str(file), "it contains a secret of this run")


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def name(document: Mapping[str, Any]) -> str:
    task = document["task"]
    return f"{task['run_id']} attempt {task['attempt']}"
