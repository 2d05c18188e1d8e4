"""Forgotten people disappear from every byte of lake and tables; the data of others does not change."""

import contextlib
import dataclasses
import datetime
import functools
import gzip
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from common import contracts, protocol
from common.delivery.dynamodb.store import DynamoDB, document_key, item_key
from common.delivery.json_values import packed
from common.delivery.store import POINTER, VERSIONS, place_of
from common.engines import arrow
from common.errors import TaskError
from common.handover import manifest, storage
from common.handover.job_toml import load
from common.handover.stores import gs, s3
from common.ingestion import ledger, suppression
from common.reporting.examples import Had, Shown, UserExample
from common.reporting.index_entry import entry_of
from common.reporting.page import Extras, render_card, render_index
from common.reporting.record import (
    FORMAT,
    Attempt,
    Example,
    Failure,
    Instance,
    Reason,
    Record,
    Step,
    TaskSummary,
    Warning,
)
from jobs.write_product.main import shortened
from tools import environment, tables
from tools.lake import forget, forget_content, forget_lake
from tools.packaging.fingerprint import ROOT
from tools.sandbox import parts, servers
from tools.sandbox.local_airflow import free_port

MOMENT = datetime.datetime(2011, 1, 5, 10, tzinfo=datetime.UTC)
QUARANTINE = max(file.stem for file in (ROOT / "common" / "contracts").glob("quarantine@*.toml"))
RUN = "manual__2011-01-05T00:00:00+00:00"
ID_CASES = {
    "text": ("ann", ["anna", "an", "joann", "ann-1", "ANN"]),
    "number": ("17", ["117", "171", "7", "17.0", "017"]),
    "unicode": ("Zoë ✓ 王", ["Zoe ✓ 王", "Zoë", "王"]),
    "quotes and spaces": ('o"neil, \\ anna maria', ["anna", "maria", "o"]),
    "mail": ("ann@example.com", ["ann", "ann@example.com.au", "joann@example.com"]),
}


class Shop:
    """A lake with all files that jobs leave about some users, and the tables of its products."""

    def __init__(self, root: str, prefix: str = "") -> None:
        self.root = root
        self.prefix = prefix

    # writing

    def raw(self, dataset: str, name: str, lines: list[bytes], pack: Callable[[bytes], bytes] = gzip.compress) -> None:
        storage.write(f"{self.root}/raw/{dataset}/arrival=2011-01-05/{name}", pack(b"".join(lines)))

    def parquet(self, uri: str, rows: pa.Table) -> dict[str, Any]:
        sink = io.BytesIO()
        pq.write_table(rows, sink, row_group_size=3, compression="zstd")
        storage.write(uri, sink.getvalue())
        return {"path": uri, "bytes": len(sink.getvalue())}

    def publish(self, folder: str, outputs: dict[str, tuple[str, int, dict[str, bytes]]], **more: Any) -> None:
        """Publish outputs: contract, rows and files by path below the folder, as their bytes."""
        document: dict[str, Any] = {
            "format": 1,
            "task": {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": None, "map_count": None, "attempt": 1},
            "ended": "2011-01-05T12:00:00.000+00:00",
            "metrics": {},
            "outputs": {},
        }
        for role, (contract, rows, files) in outputs.items():
            for name, content in files.items():
                storage.write(f"{self.root}/{folder}/{name}", content)
            listed = [{"path": name, "bytes": len(content)} for name, content in files.items()]
            size = sum(file["bytes"] for file in listed)
            document["outputs"][role] = {"contract": contract, "rows": rows, "bytes": size, "files": listed}
            if contract == "events@3":
                document["outputs"][role]["arrivals"] = {str(MOMENT.date()): rows}
                document["outputs"][role]["counts"] = {"type": {"purchase": rows}}
        storage.write(protocol.manifest_uri(f"{self.root}/{folder}"), manifest.to_json({**document, **more}))

    def fill(self, users: list[str]) -> None:
        """Fill all levels of the lake with rows of some users; the first one is to be forgotten."""
        events = [event(number, user) for number, user in enumerate(users)]
        self.raw("events", "a.jsonl.gz", [as_line(each) for each in events])
        self.raw("events", "b.jsonl.gz", [as_line({**each, "user_id": None}) for each in events])
        odd = [b'{"event_id": "e", "user_id": %s, "ite\n' % json.dumps(user).encode() for user in users]
        odd += [b"\r\n", b"\xff\xfe no text\n", *(f"{user}|p1|3.5\n".encode() for user in users[1:])]
        self.raw("events", "odd.jsonl.gz", odd)
        self.raw("users", "plain.jsonl", [as_line({"user_id": user, "plan": "free"}) for user in users], bytes)
        for day in ("2011-01-05", "2011-01-06"):
            named = content_of("events@3", users)
            self.publish(f"curated/events/date={day}", {"events": ("events@3", len(users), {"version=a-1/p": named})})
            self.publish(
                f"curated/events/date={day}",
                {"events": ("events@3", len(users), {"version=b-1/part-0.parquet": named})},
            )
        self.orphan("curated/events/date=2011-01-05/version=lost-1/part-0.parquet", users)
        self.publish(
            "curated/users/all",
            {"users": ("users@2", len(users), {"version=c-1/x.parquet": content_of("users@2", users)})},
            ended=None,  # as generate_data writes it
        )
        changes = {"version=d-1/x.parquet": content_of("user_changes@1", users)}
        self.publish("curated/user_changes/all", {"user_changes": ("user_changes@1", len(users), changes)})
        for task, contract in {
            "build_interactions": "interactions@2",
            "predict/map-0": "predictions@3",
            "predict/map-1": "predictions@3",
            "select": "recommendations@2",
            "features": "user_features@2",
            "churn": "churn_predictions@2",
            "join": "characteristics@3",
            "ingest": QUARANTINE,
        }.items():
            files = {f"attempt-2/rows/part-{n}.parquet": content_of(contract, users) for n in range(2)}
            folder = f"intermediate/dag/{protocol.encode(RUN)}/{task}"
            self.publish(folder, {"rows": (contract, 2 * len(users), files)}, metrics={"users": 3, "largest": users[0]})
            self.orphan(f"{folder}/attempt-1/rows/part-0.parquet", users)
        sentence = f"User '{users[0]}' has two rows, expected one; '{users[1]}' has one."
        failure = {"task": {}, "sentence": sentence, "exceptions": [{"type": "E", "message": sentence}]}
        storage.write(f"{self.root}/intermediate/dag/r/select/attempt-1/failure.json", manifest.to_json(failure))
        attempt = {"state": "failed", "reason": f"Traceback:\n  {sentence}"}
        storage.write(f"{self.root}/intermediate/dag/r/select/attempt-1/scheduler.json", manifest.to_json(attempt))
        self.report(sentence, users)
        model = {
            "attempt-1/model/items.npy": npy([users[0], "p1"]),
            "attempt-1/model/document.json": b'{"model": "als"}',
        }
        self.publish("intermediate/dag/r/train", {"model": ("recommender_model@5", 2, model)})
        self.orphan("curated/events/_temporary/0/task-1/date=2011-01-05/part-0.parquet", users)

    def report(self, sentence: str, users: list[str]) -> None:
        """Write the record and the card of a run that failed, quarantined a line of each user, and shows them all."""
        lines = [json.dumps({"user_id": user}) for user in users]
        out = [{"reason": "odd", "records": 3, "examples": [{"file": "a.gz", "content": line} for line in lines]}]
        record = {"failure": {"task": "t", "sentence": sentence}, "funnel": [{"name": "lines", "count": 3, "out": out}]}
        folder = f"{self.root}/{protocol.REPORTS}"
        storage.write(f"{folder}/records/dag/2011-01/r.json", manifest.to_json(record))
        people = [f'<p class="person" data-user="{escape(user)}">17</p><!--/person-->' for user in users]
        texts = [f'<code class="line">{escape(line)}</code>' for line in lines]
        card = "\n".join(['<p>17 of <bdi class="sentence">', escape(sentence), "</bdi></p>", *people, *texts])
        storage.write(f"{folder}/cards/dag/2011-01/r.html", card.encode())

    def orphan(self, path: str, users: list[str]) -> None:
        storage.write(f"{self.root}/{path}", content_of("events@3", users))

    # reading

    def everything(self) -> dict[str, bytes]:
        """Return the bytes of all files by path, hidden ones too."""
        people = suppression.People("", frozenset(), {})
        whole = forget_lake.Lake(self.root, people, None, 0, forget.console)  # type: ignore[arg-type]
        levels = ["raw", "curated", "intermediate", "products", "suppression", "receipts"]
        paths = [entry.path for level in levels for entry in whole.entries(level)]
        return dict(zip(paths, storage.in_parallel(lambda path: storage.read(f"{self.root}/{path}")[0], paths)))

    def published(self) -> dict[str, list]:
        """Return the rows that manifests name, by folder and role; those of models as arrays."""
        folders = [path.rpartition("/")[0] for path in self.everything() if path.endswith("/manifest.json")]
        return {f"{folder}:{role}": rows for folder in folders for role, rows in self.read(folder).items()}

    def read(self, folder: str) -> dict[str, list]:
        """Return the rows that a manifest names, by role; check that all files have their sizes."""
        found: dict[str, list] = {}
        for role, output in json.loads(storage.read(protocol.manifest_uri(f"{self.root}/{folder}"))[0])[
            "outputs"
        ].items():
            rows: list = []
            for file in output["files"]:
                content = storage.read(f"{self.root}/{folder}/{file['path']}")[0]
                assert len(content) == file["bytes"]
                rows += values_of(file["path"], content)
            assert output["bytes"] == sum(file["bytes"] for file in output["files"])
            if output["contract"] != "recommender_model@5":
                assert output["rows"] == len(rows)
            assert sum(output.get("arrivals", {}).values()) == (output["rows"] if "arrivals" in output else 0)
            assert output.get("counts") in (None, {"type": {"purchase": output["rows"]}})
            found[role] = rows
        return found

    def deliveries(self) -> dict[str, list[bytes]]:
        return {
            path: unpacked(path, content).splitlines(keepends=True)
            for path, content in self.everything().items()
            if path.startswith("raw/")
        }

    def forget(self, *ids: str, grace: float = 0) -> int:
        settings = environment.load("laptop")
        section = {**settings["delivery"], "tables": self.prefix or f"none-{uuid.uuid4().hex}-"}
        return forget.forget(
            self.root, dataclasses.replace(settings, table={**settings.table, "delivery": section}), list(ids), grace
        )

    def receipts(self) -> list[dict[str, Any]]:
        return [json.loads(storage.read(file.uri)[0]) for file in storage.files(f"{self.root}/receipts")]


def event(number: int, user: Any) -> dict[str, Any]:
    return {"event_id": f"e{number}", "user_id": user, "item_id": "17", "quantity": 17, "note": "ann 17 Zoë"}


def as_line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def content_of(contract: str, users: list[str]) -> bytes:
    """Return a file of a contract with one row per user; the last user is null if allowed."""
    loaded = contracts.load(contract)
    samples: dict[str, Any] = {
        "string": "17",
        "integer": 17,
        "boolean": True,
        "map": [("note", "17")],
        "date": MOMENT.date(),
        "timestamp": MOMENT,
    }
    rows = []
    for user in users:
        row = {name: samples.get(column.type, 0.5) for name, column in loaded.columns.items()}
        row |= {"user_id": user} if "user_id" in loaded.columns else {}
        row |= {"content": json.dumps({"user_id": user, "x": "ann 17"})} if "content" in loaded.columns else {}
        rows.append(row)
    if loaded.columns.get("user_id") and loaded.columns["user_id"].nullable:
        rows[-1]["user_id"] = None
    sink = io.BytesIO()
    schema = arrow.arrow_schema(loaded, list(loaded.columns))
    pq.write_table(pa.Table.from_pylist(rows, schema), sink, row_group_size=3)
    return sink.getvalue()


def npy(values: list[str]) -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.array(values), allow_pickle=False)
    return sink.getvalue()


def unpacked(path: str, content: bytes) -> bytes:
    return gzip.decompress(content) if path.endswith(".gz") else content


def values_of(path: str, content: bytes) -> list:
    if path.endswith(".npy"):
        return np.load(io.BytesIO(content)).tolist()
    return pq.read_table(io.BytesIO(content)).to_pylist() if content[:4] == b"PAR1" else [content]


def names(row: Any, user: str) -> bool:
    """Return True if a row of a published file is about a user."""
    if not isinstance(row, dict):
        return False
    return row.get("user_id") == user or ("content" in row and json.loads(row["content"])["user_id"] == user)


def line_names(line: bytes, user: str) -> bool:
    """Return True if a line of the deliveries above is about a user."""
    forms = [json.dumps(user).encode(), json.dumps(user, ensure_ascii=False).encode(), user.encode()]
    marks = [b'"user_id": %s,' % form for form in forms[:2]] + [b'"user_id": %s}' % form for form in forms[:2]]
    return any(mark in line for mark in marks)


@pytest.fixture
def shop(any_lake: str) -> Shop:
    return Shop(any_lake)


@pytest.fixture
def shop_of_files(lake: str) -> Shop:
    Path(lake.removeprefix("file://")).mkdir()
    return Shop(lake)


@pytest.fixture(autouse=True)
def no_table(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The laptop's DynamoDB is not running, unless a test has one; nothing of this checkout's replays is deleted."""
    monkeypatch.setattr(tables, "LOCAL", Path("/nowhere"))
    monkeypatch.setattr(forget, "REPLAYS", Path("/nowhere"))
    if "dynamodb" not in request.fixturenames:
        monkeypatch.delenv("DYNAMODB_ENDPOINT", raising=False)


@pytest.mark.parametrize("case", ID_CASES)
def test_user_is_forgotten_and_others_keep_every_row(shop_of_files: Shop, case: str) -> None:
    shop = shop_of_files
    user, others = ID_CASES[case]
    shop.fill([user, *others])
    rows, lines = shop.published(), shop.deliveries()
    assert shop.forget(user) == 0
    assert shop.published() == {unit: [row for row in found if not names(row, user)] for unit, found in rows.items()}
    assert shop.deliveries() == {
        path: [line for line in all_ if not line_names(line, user)] for path, all_ in lines.items()
    }
    assert sum(len(found) for found in rows.values()) - sum(map(len, shop.published().values())) == 2 + 1 + 1 + 8 * 2
    (receipt,) = shop.receipts()
    assert receipt["users"][0]["places"]["raw/events"] == 2


def test_id_is_in_no_byte_of_the_lake_afterwards(shop: Shop) -> None:
    user = "Zoë-4711"
    shop.fill([user, "bob", "eve"])
    storage.write(f"{shop.root}/intermediate/dag/r/train/attempt-1/model/items.npy", npy(["p1", "p2"]))
    assert bytes_with(shop, user)
    assert shop.forget(user) == 0
    assert bytes_with(shop, user) == []
    assert suppression.load(shop.root).find(user)


def bytes_with(shop: Shop, user: str) -> list[str]:
    """Return the files that contain an ID, plain or escaped: in raw or decompressed bytes, or in a decoded value."""
    forms = [user.encode(), json.dumps(user).strip('"').encode(), user.encode("utf-32-le")]
    found = []
    for path, content in shop.everything().items():
        whole = content + unpacked(path, content)
        if content[:4] == b"PAR1":
            whole += repr(pq.read_table(io.BytesIO(content)).to_pylist()).encode()
        if any(form in whole for form in forms):
            found.append(path)
    return found


def test_list_of_users_is_forgotten_with_a_count_for_each(shop_of_files: Shop) -> None:
    shop = shop_of_files
    shop.fill(["ann", "bob", "eve", "mia"])
    rows = shop.published()
    assert shop.forget("ann", "eve", "nobody") == 0
    left = {
        unit: [row for row in found if not (names(row, "ann") or names(row, "eve"))] for unit, found in rows.items()
    }
    assert shop.published() == left
    (receipt,) = shop.receipts()
    found = {user["hash"]: user["found"] for user in receipt["users"]}
    key = suppression.key_of(shop.root)
    assert found[suppression.keyed_hash(key, "nobody")] == 0
    assert found[suppression.keyed_hash(key, "eve")] > 20
    assert not {"ann", "eve", "nobody"} & set(json.dumps(receipt).split('"'))


def test_unknown_user_gets_a_receipt_without_findings(shop_of_files: Shop) -> None:
    shop = shop_of_files
    shop.fill(["ann", "bob"])
    before = shop.everything()
    assert shop.forget("nobody", grace=1e6) == 0  # nothing was replaced, so nothing has to wait
    assert [user["places"] for user in shop.receipts()[0]["users"]] == [{}]
    after = shop.everything()
    assert {path: after[path] for path in before} == before
    assert {path.split("/")[0] for path in after.keys() - before.keys()} == {"suppression", "receipts"}


def test_replaced_files_stay_for_readers_until_the_grace_is_over(shop_of_files: Shop, capsys) -> None:
    shop = shop_of_files
    shop.fill(["ann", "bob"])
    before = {path for path in shop.everything() if path.endswith(".parquet") and "/version=c-1/" in path}
    assert len(before) == 1
    for path in before:
        os.utime(storage.local(f"{shop.root}/{path}"), (0, 0))  # the time of replacement counts, not the age
    assert shop.forget("ann", grace=3600) == 1
    assert "finish with make forget" in capsys.readouterr().out
    assert before <= set(shop.everything())
    assert not any(names(row, "ann") for rows in shop.published().values() for row in rows)
    assert shop.receipts() == []
    assert shop.forget(grace=3600) == 1  # still too early; no ID needed
    assert shop.forget() == 0
    assert not any(
        names(row, "ann") for path in shop.everything() if path.endswith(".parquet") for row in rows_at(shop, path)
    )
    (receipt,) = shop.receipts()
    assert receipt["users"][0]["places"]["curated/users"] == 1
    assert shop.forget() == 0
    assert len(shop.receipts()) == 1  # without new findings there is no new receipt


def rows_at(shop: Shop, path: str) -> list:
    return values_of(path, storage.read(f"{shop.root}/{path}")[0])


def test_later_data_of_forgotten_users_is_found_by_hash(shop_of_files: Shop) -> None:
    shop = shop_of_files
    shop.fill(["ann", "bob"])
    assert shop.forget("ann") == 0
    shop.raw("events", "late.jsonl.gz", [as_line(event(1, "ann")), as_line(event(2, "bob"))])
    late = {"rows": ("interactions@2", 2, {"attempt-1/rows/p.parquet": content_of("interactions@2", ["ann", "bob"])})}
    shop.publish("intermediate/dag/late/build", late)
    ingested = next(file for file in storage.files(f"{shop.root}/raw/events") if file.uri.endswith("late.jsonl.gz"))
    name = ingested.uri.removeprefix(f"{shop.root}/")
    entry = protocol.LedgerEntry(bytes=ingested.bytes, tag=ingested.tag, unusable=2)
    ledger.update(shop.root, "events", {name: entry, f"{name}.other": entry}, {})
    assert shop.forget() == 0
    after = next(file for file in storage.files(f"{shop.root}/raw/events") if file.uri == ingested.uri)
    assert after != ingested
    known = ledger.read(protocol.ledger_uri(shop.root, "events", name))[0]
    assert known == {name: {"bytes": after.bytes, "tag": after.tag, "unusable": 2}, f"{name}.other": entry}
    assert shop.deliveries()["raw/events/arrival=2011-01-05/late.jsonl.gz"] == [as_line(event(2, "bob"))]
    assert [row["user_id"] for row in shop.published()["intermediate/dag/late/build:rows"]] == ["bob"]
    assert [user["places"] for receipt in shop.receipts()[1:] for user in receipt["users"]] == [
        {"intermediate/dag": 1, "raw/events": 1}
    ]


def test_nothing_to_finish_in_a_lake_where_nobody_was_forgotten(shop_of_files: Shop, capsys) -> None:
    assert shop_of_files.forget() == 0
    assert "Nobody was forgotten" in capsys.readouterr().out
    assert shop_of_files.everything() == {}


# Deliveries

DELIVERIES = {
    "carriage returns before line feeds": ([b'{"user_id": "ann"}\r\n'], [b'{"user_id": "bob"}\r\n']),
    "carriage returns alone": ([b'{"user_id": "ann"}\r'], [b'{"user_id": "bob"}\r', b"x\r"]),
    "a carriage return within a record": ([b'{"user_id":\r"ann"}\n'], [b'{"user_id":\r"bob"}\n']),
    "no line feed at the end": ([], [b'{"user_id": "bob"}\n', b'{"user_id": "eve"}']),
    "escaped letters": (
        [b'{"user_id": "\\u0061nn"}\n', b'{"\\u0075ser_id": "ann"}\n'],
        [b'{"user_id": "\\u0062ob"}\n'],
    ),
    "no JSON": (
        [b'{"user_id": "ann", \n', b"ann;3\n", b'"ann"\n'],
        [b'{"user_id": "anna", "x": "ann"\n', b"annie;3\n"],
    ),
    "other fields of that value": ([], [b'{"user_id": "bob", "item_id": "ann"}\n', b'{"item_id": "ann"}\n']),
    "a nested user": ([], [b'{"user_id": "bob", "by": {"user_id": "ann"}}\n']),
    "two records on a line": ([b'{"user_id": "bob"}{"user_id": "ann"}\n'], [b'{"user_id": "bob"}{"user_id": "eve"}\n']),
    "bytes that are no UTF-8": ([b'{"user_id": "ann", "country": "M\xfcnchen"}\n'], [b'{"user_id": "b\xfcb"}\n']),
    "an empty line": ([], [b"\n", b'{"user_id": null}\n', b'{"user_id": ["ann"], "x": 1}\n'][:2]),
    "deep nesting": ([], [b"[" * 100_000 + b"\n"]),
}


@pytest.mark.parametrize("pack", ["gzip", "members", "plain"])
@pytest.mark.parametrize("case", DELIVERIES)
def test_lines_of_a_user_go_and_all_other_bytes_stay(shop_of_files: Shop, case: str, pack: str) -> None:
    own, others = DELIVERIES[case]
    lines = [*own, *others] if others and not others[-1].endswith((b"\n", b"\r")) else [*others, *own]
    packed = {"gzip": gzip.compress, "plain": bytes, "members": lambda content: b"".join(map(gzip.compress, lines))}[
        pack
    ]
    shop_of_files.raw("events", "a.gz" if pack != "plain" else "a", lines, packed)
    assert shop_of_files.forget("ann") == 0
    assert b"".join(shop_of_files.deliveries().popitem()[1]) == b"".join(others)
    assert shop_of_files.receipts()[0]["users"][0]["found"] == len(own)


def test_line_longer_than_a_piece_is_searched_entirely(shop_of_files: Shop, monkeypatch) -> None:
    monkeypatch.setattr(forget_content, "PIECE", 64)
    long = [b'{"x": "%s", "user_id": "%s", "y": "%s"}\n' % (b"x" * 100, user, b"y" * 90) for user in (b"ann", b"bob")]
    shop_of_files.raw("events", "a.gz", long)
    assert shop_of_files.forget("ann") == 0
    assert shop_of_files.deliveries().popitem()[1] == [long[1]]


def test_windows_text_of_a_user_is_recognised(shop_of_files: Shop) -> None:
    shop_of_files.raw(
        "users", "a.gz", ['{"user_id": "Müller"}\n'.encode("cp1252"), '{"user_id": "Mäller"}\n'.encode("cp1252")]
    )
    assert shop_of_files.forget("Müller") == 0
    assert shop_of_files.deliveries().popitem()[1] == ['{"user_id": "Mäller"}\n'.encode("cp1252")]


# Files that the tool cannot change


def test_unreadable_file_keeps_the_request_open_until_repaired(shop_of_files: Shop, capsys) -> None:
    shop = shop_of_files
    shop.fill(["ann", "bob"])
    name = "raw/events/arrival=2011-01-05/broken.jsonl.gz"
    content = gzip.compress(as_line(event(1, "ann")) * 1000)
    storage.write(f"{shop.root}/{name}", content[:-20])
    assert shop.forget("ann") == 1
    assert f"left: {name}" in capsys.readouterr().out
    assert shop.receipts() == []
    storage.write(f"{shop.root}/{name}", content)
    assert shop.forget() == 0
    assert shop.receipts()[0]["users"][0]["places"]["raw/events"] == 1002


def test_model_of_users_is_reported_and_unchanged(shop_of_files: Shop, capsys) -> None:
    shop = shop_of_files
    model = {
        "attempt-1/model/users.npy": npy(["ann", "bob"]),
        "attempt-1/model/document.json": b'{"top_users": ["ann"]}',
    }
    shop.publish("intermediate/dag/r/train", {"model": ("recommender_model@5", 2, model)})
    assert shop.forget("ann") == 1
    assert capsys.readouterr().out.count("(a model that names people)") == 2
    assert shop.forget("bobby") == 0


def test_no_shipped_model_names_users() -> None:
    described = [contracts.load(file.stem) for file in sorted((ROOT / "common" / "contracts").glob("*.toml"))]
    models = [contract for contract in described if contract.arrays]
    assert len(models) >= 2
    assert not [contract.name for contract in models if "user_id" in contract.description]


# The command line


@pytest.fixture
def run(run_tool, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess]:
    monkeypatch.delenv("DYNAMODB_ENDPOINT", raising=False)
    return functools.partial(run_tool, "tools.lake.forget")


@pytest.mark.parametrize("source", ["variable", "file", "standard input"])
def test_id_is_read_from_unlogged_sources(shop_of_files: Shop, run, tmp_path: Path, source: str) -> None:
    shop = shop_of_files
    shop.fill(["Zoë-4711", "bob"])
    arguments = ["--lake", shop.root, "--grace-minutes", "0"]
    (tmp_path / "users").write_text("Zoë-4711\r\n\nnobody\n")
    done = {
        "variable": lambda: run(*arguments, TANDEM_FORGET_USER="Zoë-4711"),
        "file": lambda: run(*arguments, "--users", str(tmp_path / "users")),
        "standard input": lambda: run(*arguments, "--users", "-", stdin="Zoë-4711\nnobody"),
    }[source]()
    assert (done.returncode, done.stderr) == (0, "")
    assert "Zoë" not in done.stdout
    assert not any(names(row, "Zoë-4711") for rows in shop.published().values() for row in rows)
    assert len(shop.receipts()[0]["users"]) == (1 if source == "variable" else 2)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"\n\n", "has no user ID"), (b"b\xfcb\n", "is not UTF-8 at byte 1"), (None, "can't be read (No such file")],
)
def test_file_without_user_ids_is_refused(shop_of_files: Shop, run, tmp_path: Path, content, sentence: str) -> None:
    if content is not None:
        (tmp_path / "users").write_bytes(content)
    done = run("--lake", shop_of_files.root, "--users", str(tmp_path / "users"))
    assert done.returncode == 1
    assert sentence in done.stderr
    assert shop_of_files.everything() == {}


def test_login_name_in_variable_user_forgets_nobody(shop_of_files: Shop) -> None:
    command = ["make", "-n", "-o", "setup", "forget", f"LAKE={shop_of_files.root}"]
    outputs = [
        subprocess.run(
            [*command, *more], cwd=ROOT, capture_output=True, text=True, env=os.environ | {"USER": "root"}
        ).stdout
        for more in ([], ["USER=ann"])
    ]
    assert ["TANDEM_FORGET_USER" in text for text in outputs] == [False, True]
    assert "ann" not in outputs[1]


# Documents


@pytest.mark.parametrize("user", ["ann", "17", "o'neil", "x" * 2000, "Zoë 王", "tab\tbed"])
def test_examples_of_keys_in_metrics_and_sentences_are_forgotten(shop_of_files: Shop, user: str) -> None:
    shop = shop_of_files
    shown = {"long_key": {"keys": 2, "examples": [shortened(user), shortened(f"y{user}")]}, "model": "als", "users": 17}
    shop.publish("intermediate/dag/r/publish", {}, metrics={"unpublishable_keys": shown})
    sentence = f"2 keys can't be stored: it is empty: 1, such as {shortened(user)}, y{user[:10]} is fine."
    storage.write(f"{shop.root}/intermediate/dag/r/x/attempt-1/failure.json", manifest.to_json({"sentence": sentence}))
    assert shop.forget(user) == 0
    document = json.loads(storage.read(f"{shop.root}/intermediate/dag/r/publish/manifest.json")[0])
    examples = ["[forgotten]", shortened(f"y{user}")]
    assert document["metrics"]["unpublishable_keys"] == shown | {"long_key": {"keys": 2, "examples": examples}}
    failure = json.loads(storage.read(f"{shop.root}/intermediate/dag/r/x/attempt-1/failure.json")[0])
    assert shortened(user) not in failure["sentence"]
    assert f"y{user[:10]} is fine" in failure["sentence"]


def test_reports_lose_a_person_and_keep_the_others(shop_of_files: Shop) -> None:
    shop, folder = shop_of_files, f"{shop_of_files.root}/{protocol.REPORTS}"
    shop.report("User '17' has 17 rows, bob has 170.", ["17", "bob", "170"])
    before = storage.read(f"{folder}/cards/dag/2011-01/r.html")[0].decode().splitlines()
    assert shop.forget("17") == 0
    record = json.loads(storage.read(f"{folder}/records/dag/2011-01/r.json")[0])
    contents = [example["content"] for example in record["funnel"][0]["out"][0]["examples"]]
    assert contents == ["[forgotten]", '{"user_id": "bob"}', '{"user_id": "170"}']
    sentence = record["failure"]["sentence"]
    assert (sentence.count("17"), sentence.endswith("rows, bob has 170.")) == (1, True)
    card = storage.read(f"{folder}/cards/dag/2011-01/r.html")[0].decode().splitlines()
    assert card[0] == before[0]  # the numbers of a page are no IDs
    assert escape(sentence) == card[1]
    assert card[3:] == ["[forgotten]", *before[4:6], '<code class="line">[forgotten]</code>', *before[7:]]
    assert shop.receipts()[0]["users"][0]["places"] == {"products/reports": 7}


def test_templates_mark_every_text_that_may_name_a_person() -> None:
    user, other = 'o\'neil & "co"', "bob <b>"
    sentence, line = f"User '{user}' is odd, {other} is not.", json.dumps({"user_id": user})
    attempt = Attempt(1, "failed", sentence=sentence)
    out = [Reason("odd", 2, [Example("a.gz", line), Example("b.gz", json.dumps({"user_id": other}))])]
    found = Record(
        FORMAT,
        "laptop",
        "dag",
        "run",
        "manual",
        MOMENT,
        "failed",
        failure=Failure("ingest", sentence),
        tasks=[TaskSummary("ingest", "failed", shown=[Instance("failed", [attempt])])],
        funnel=[Step("lines", "ingest", 2, out=out)],
        warnings=[Warning("ingest", sentence)],
    )
    had, shown = [Had(f"Lamp of {each}") for each in (user, other)], [Shown(1, "Lamp")]
    people = [UserExample(each, [item], 1, shown) for each, item in zip((user, other), had)]
    card = render_card(found, [], Extras(people))
    index = render_index([entry_of(found, "cards/run.html")])
    known = suppression.People("", frozenset(["hash"]), {user: "hash"})
    for page, expected in ((card, 6), (index, 1)):
        after, named = forget_content.redact(page.encode(), known, is_page=True)
        assert named["hash"] >= expected
        assert "neil" in page
        assert "neil" not in after.decode()
        assert page.count("bob &lt;b&gt;") == after.decode().count("bob &lt;b&gt;") > 0


# Tables


@pytest.fixture
def product_tables(dynamodb: str) -> Iterator[tuple[Shop, dict[str, DynamoDB]]]:
    """A prefix with tables of the products by user, and of one that is not by user."""
    prefix = f"t{uuid.uuid4().hex}-"
    names = ("recommendations", "characteristics", "trending_items")
    found = {name: DynamoDB.open("dynamodb:", prefix + name, 4) for name in names}
    for store in found.values():
        assert store.create(None)
    yield prefix, found


def items_of(store: DynamoDB) -> list[dict[str, Any]]:
    pages = store.client.get_paginator("scan").paginate(TableName=store.name)
    return sorted((item for page in pages for item in page["Items"]), key=str)


def fill_table(store: DynamoDB, users: list[str]) -> None:
    """Write versions as publications leave them: live, for rollback, expired, begun, and one that is not listed."""
    for version, more in {"v1": {}, "v2": {}, "v3": {"expires": {"N": "1"}}, "v4": {}, "v5": {}}.items():
        described = {"version": {"S": version}, "buckets": {"N": "16"}, "content": {"B": packed(["ann"])}, **more}
        items = [{**item_key(place_of(version, 16, user)), "content": {"B": packed("shown")}, **more} for user in users]
        if version != "v5":
            items.append({**described, **document_key(VERSIONS + version)})
        if version == "v1":
            items.append({**described, **document_key(POINTER)})
        store.write([{"PutRequest": {"Item": item}} for item in items])


def test_items_of_a_user_are_deleted_in_all_versions(shop_of_files: Shop, product_tables) -> None:
    shop, (shop.prefix, found) = shop_of_files, product_tables
    for table in found.values():
        fill_table(table, ["ann", "anna", "current", "versions"])
    before = {name: items_of(table) for name, table in found.items()}
    assert shop.forget("ann", "current") == 0
    for name in ("recommendations", "characteristics"):
        kept = [item for item in before[name] if item["id"]["S"] != "ann"]
        kept = [item for item in kept if item["id"]["S"] != "current" or item["part"]["S"] == "current"]
        assert items_of(found[name]) == kept
    assert items_of(found["trending_items"]) == before["trending_items"]  # its keys are segments
    places = [user["places"] for user in shop.receipts()[0]["users"]]
    assert places == [{f"tables/{shop.prefix}{name}": 5 for name in ("characteristics", "recommendations")}] * 2
    fill_table(found["recommendations"], ["ann"])
    assert shop.forget() == 0  # by the hashes
    assert "ann" not in {item["id"]["S"] for item in items_of(found["recommendations"])}


# Kills and running tasks


@pytest.fixture
def forget_until() -> Iterator[Callable[..., bool]]:
    """Forget a user of a lake in a process that is killed in an operation; True if it was killed."""
    command = [sys.executable, "-m", "tests.programs.forget_until_killed"]
    surroundings = {name: value for name, value in os.environ.items() if name != "DYNAMODB_ENDPOINT"}
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=surroundings, **pipes) as process:

        def until(*arguments: Any) -> bool:
            process.stdin.write(json.dumps(arguments) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield until
        process.stdin.close()


@pytest.mark.system  # kills at each of some 50 operations
@pytest.mark.timeout(900)
def test_killed_run_resumes_with_or_without_the_id(shop_of_files: Shop, tmp_path: Path, forget_until) -> None:
    whole = shop_of_files
    users = ["Zoë-4711", "bob", "eve"]
    whole.raw("events", "a.gz", [as_line(event(number, user)) for number, user in enumerate(users)])
    named = {f"attempt-1/rows/{number}.parquet": content_of("interactions@2", users) for number in range(2)}
    whole.publish("intermediate/dag/r/build", {"rows": ("interactions@2", 6, named)}, metrics={"largest": users[0]})
    whole.publish(
        "curated/users/all", {"users": ("users@2", 3, {"version=c-1/x.parquet": content_of("users@2", users)})}
    )
    whole.orphan("intermediate/dag/r/build/attempt-0/rows/part-0.parquet", users)
    failure = {"sentence": f"'{users[0]}' is odd.", "exceptions": []}
    storage.write(f"{whole.root}/intermediate/dag/r/b/attempt-1/failure.json", manifest.to_json(failure))
    whole.report(failure["sentence"], users)
    rows = {unit: [row for row in found if not names(row, users[0])] for unit, found in whole.published().items()}
    for number in itertools.count():
        shop = Shop(f"file://{tmp_path}/{number}")
        shutil.copytree(storage.local(whole.root), storage.local(shop.root))
        killed = forget_until(shop.root, users[0], number)
        if suppression.load(shop.root):  # from here on no ID is needed
            assert shop.forget(*([users[0]] if number % 2 else [])) == 0
        else:
            assert shop.forget(users[0]) == 0
        assert shop.published() == rows
        assert bytes_with(shop, users[0]) == []
        assert len(shop.deliveries().popitem()[1]) == 2
        assert max(user["found"] for receipt in shop.receipts() for user in receipt["users"]) == 11
        shutil.rmtree(storage.local(shop.root))
        if not killed:
            break
    assert number > 40


def test_running_tasks_lose_no_rows_and_restore_nobody(shop_of_files: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Concurrent writers append to a partition, half of them after a read, while readers read all rows."""
    monkeypatch.setattr(forget_lake, "MAX_CONFLICTS", 10_000)  # writers publish more often here than tasks do
    shop, uri = shop_of_files, "curated/events/date=2011-01-05"
    shop.publish(
        uri, {"events": ("events@3", 3, {"version=a-1/p.parquet": content_of("events@3", ["ann", "bob", "x"])})}
    )
    errors: list[Exception] = []
    ended = threading.Event()

    def write(number: int) -> None:
        users = ["ann", f"user-{number}", "x"]
        name = f"version=w{number}-1/p.parquet"
        storage.write(f"{shop.root}/{uri}/{name}", content := content_of("events@3", users))
        while True:  # as a retry does
            seen = manifest.load_or_none(protocol.manifest_uri(f"{shop.root}/{uri}"))
            assert seen
            output = seen.document["outputs"]["events"]
            output["files"].append({"path": name, "bytes": len(content)})
            output |= {"rows": output["rows"] + 3, "bytes": output["bytes"] + len(content)}
            output["arrivals"][str(MOMENT.date())] += 3
            if "counts" in output:
                output["counts"]["type"]["purchase"] += 3
            time.sleep(0.01)
            with contextlib.suppress(TaskError):
                return manifest.publish_partition(seen.uri, seen.document, seen)

    def write_all(numbers: range) -> int:
        for number in numbers:
            write(number)
        return len(numbers)

    def read() -> None:
        while not ended.is_set():
            try:
                assert len(shop.read(uri)["events"]) >= 2
            except Exception as error:
                errors.append(error)
                return

    with ThreadPoolExecutor(3) as pool:
        pool.submit(read)
        writers = [pool.submit(write_all, range(first, first + 20)) for first in (0, 20)]
        try:
            while not all(writer.done() for writer in writers):
                assert shop.forget("ann", grace=301) == 1  # longer than MAX_WAIT
        finally:
            ended.set()
    assert [writer.result() for writer in writers] == [20, 20]
    assert errors == []
    assert shop.forget() == 0
    left = sorted(row["user_id"] or "" for row in shop.published()[f"{uri}:events"])
    assert left == sorted(["", "bob", *[""] * 40, *(f"user-{number}" for number in range(40))])
    assert bytes_with(shop, "ann") == []


# Buckets with versions


@pytest.fixture
def versioned_gs(fake_gcs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """A lake in a bucket of Google's storage that keeps versions."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake_gcs["STORAGE_EMULATOR_HOST"])
    bucket = gs.client().bucket(f"versions-{uuid.uuid4().hex}")
    bucket.versioning_enabled = True
    bucket.create(project="tandem")
    yield Shop(f"gs://{bucket.name}/lake")


@pytest.fixture(params=["s3", "gs"])
def versioned(request: pytest.FixtureRequest) -> Shop:
    """A lake in a bucket that keeps versions."""
    found: Shop = request.getfixturevalue(f"versioned_{request.param}")
    return found


@pytest.fixture
def versioned_s3(versitygw: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """A lake in a bucket of S3 that keeps versions."""
    (tmp_path / "objects" / "bucket").mkdir(parents=True)
    (tmp_path / "versions").mkdir()
    port = free_port()
    keys = {"ROOT_ACCESS_KEY": "user", "ROOT_SECRET_KEY": "secret"}
    server = ["--port", f"127.0.0.1:{port}", "--quiet", "posix", "--versioning-dir", str(tmp_path / "versions")]
    command = [parts.program("versitygw"), *server, str(tmp_path / "objects")]
    with servers.listening(command, port, env=os.environ | keys):
        for name, value in {
            "AWS_ACCESS_KEY_ID": "user",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }.items():
            monkeypatch.setenv(name, value)
        arrow.object_store.cache_clear()
        s3.client().put_bucket_versioning(Bucket="bucket", VersioningConfiguration={"Status": "Enabled"})
        yield Shop("s3://bucket/lake")
        arrow.object_store.cache_clear()


def versions_of(shop: Shop) -> dict[tuple[str, str], bytes]:
    """Return all versions of all objects, by key and ID."""
    if shop.root.startswith("gs:"):
        bucket = gs.client().bucket(gs.bucket_and_name(shop.root)[0])
        names = [(each.name, each.generation) for each in gs.client().list_blobs(bucket, versions="true")]
        blobs = [bucket.blob(name, generation=generation) for name, generation in names]
        return {(blob.name, str(blob.generation)): blob.download_as_bytes(raw_download=True) for blob in blobs}
    pages = s3.client().get_paginator("list_object_versions").paginate(Bucket="bucket")
    found = [(each["Key"], each["VersionId"]) for page in pages for each in page.get("Versions", ())]
    return {
        (key, version): s3.client().get_object(Bucket="bucket", Key=key, VersionId=version)["Body"].read()
        for key, version in found
    }


def test_versions_that_name_the_user_are_deleted_and_no_others(versioned: Shop) -> None:
    shop = versioned
    shop.raw("events", "a.gz", [as_line(event(1, "ann")), as_line(event(2, "bob"))])
    shop.raw("events", "gone.gz", [as_line(event(1, "ann"))])
    storage.delete_files([f"{shop.root}/raw/events/arrival=2011-01-05/gone.gz"])
    for users in (["bob", "x"], ["bob", "ann", "x"], ["ann", "eve", "x"]):
        named = {"version=a-1/p.parquet": content_of("events@3", users)}
        shop.publish("curated/events/date=2011-01-05", {"events": ("events@3", len(users), named)})
    before = versions_of(shop)
    assert shop.forget("ann") == 0
    after = versions_of(shop)
    gone = {each for each in before.keys() - after.keys() if "/raw/" in each[0] or "/curated/" in each[0]}
    assert len(gone) == 2 + 2
    whole = [unpacked(key, content) for (key, _), content in after.items()]
    assert not any(b'"user_id": "ann"' in content for content in whole)
    tables_left = [pq.read_table(io.BytesIO(content)) for content in whole if content[:4] == b"PAR1"]
    assert sorted(str(user) for rows in tables_left for user in rows["user_id"].to_pylist()) == [
        "None",
        "None",
        "bob",
        "eve",
    ]
    assert [user["places"] for user in shop.receipts()[0]["users"]] == [{"curated/events": 3, "raw/events": 3}]


@pytest.mark.system
@pytest.mark.parametrize("any_lake", ["s3"], indirect=True)
def test_unfinished_uploads_are_aborted_after_the_grace(shop: Shop) -> None:
    bucket, key = s3.bucket_and_key(f"{shop.root}/curated/events/date=2011-01-05/version=a/p.parquet")
    s3.client().create_multipart_upload(Bucket=bucket, Key=key)
    uploads = lambda: s3.client().list_multipart_uploads(Bucket=bucket, Prefix=key).get("Uploads", [])  # noqa: E731
    assert shop.forget("ann", grace=3600) == 0
    assert len(uploads()) == 1
    assert shop.forget("ann") == 0
    assert uploads() == []


@pytest.mark.parametrize("name", ["dev", "staging", "preprod", "prod"])
def test_deadlines_of_tasks_are_within_the_grace(name: str) -> None:
    settings = environment.load(name)
    jobs = [load(file.parent) for file in (ROOT / "jobs").glob("*/job.toml")]
    deadlines = [job.resources.get("deadline_seconds", settings["deadline_seconds"]) for job in jobs]
    assert settings["forget_grace_minutes"] * 60 >= max(deadlines)


USER_SOURCES = {  # the file of a source of users, without its head
    "json": 'compression = "zstd"\neach = "who"\n[fields]\nwho = "array<struct<id: string>>"\n[columns]\n'
    "user_id = \"concat('u-', entry.id)\"\n",
    "csv": 'delimiter = ";"\nencoding = "latin-1"\n[fields]\nwho = "string"\nnote = "string"\n[columns]\n'
    "user_id = \"lower(concat('u-', who))\"\n",
    "parquet": '[fields]\nwho = "bigint"\n[columns]\nuser_id = "concat(\'u-\', who)"\n',
}


def deliver_mapped(shop: Shop) -> dict[str, tuple[bytes, bytes]]:
    """Deliver a file of each format; return its content with and without the records of u-7 and u-é."""
    lines = {
        "json": [
            b'{"who": [{"id": "7"}, {"id": "8"}]}\n', b'{"who": [{"id": "8"}], "note": "u-7"}\n', b'{"who": []}\r\n',
            b'{"who": [{"id": 7}]}\n', b'{"who": [{"id": "7"\n', b'cut off "u-7"\n', b'{"who": [{"id": "77"}]}',
        ],
        "csv": [
            b"who;note\n", b'\xc9;"two\nlines"\n', b'8;"u-7"\n', b"\n", b"7;x\n", b"7\n", b"9;x;u-7\n", b"8;\xe9",
        ],
    }  # fmt: skip
    keep = {"json": [1, 2, 4, 6], "csv": [0, 2, 3, 5, 7]}
    result = {}
    for kind, pack in {"json": zstandard.ZstdCompressor().compress, "csv": bytes}.items():
        shop.raw(f"users/{kind}", "a.zst" if kind == "json" else "a.csv", lines[kind], pack)
        result[kind] = (b"".join(lines[kind]), b"".join(lines[kind][line] for line in keep[kind]))
    shop.parquet(f"{shop.root}/raw/users/parquet/arrival=2011-01-05/a.parquet", pa.table({"x": [1, 2], "who": [7, 8]}))
    return result


def test_deliveries_are_searched_by_the_user_of_their_source(
    shop_of_files: Shop, make_sources: Callable[[dict[str, str]], Path]
) -> None:
    head = 'description = "x"\nformat = "{}"\n'
    tail = "time = \"'2011-01-01'\"\nchange = \"'subscribe'\"\n"
    make_sources({f"{kind}/users.toml": head.format(kind) + text + tail for kind, text in USER_SOURCES.items()})
    expected = deliver_mapped(shop_of_files)
    folder = f"{shop_of_files.root}/raw/users".removeprefix("file://")
    assert shop_of_files.forget("u-7", "u-é") == 0
    content = Path(f"{folder}/json/arrival=2011-01-05/a.zst").read_bytes()
    assert zstandard.ZstdDecompressor().decompressobj().decompress(content) == expected["json"][1]
    assert Path(f"{folder}/csv/arrival=2011-01-05/a.csv").read_bytes() == expected["csv"][1]
    assert pq.read_table(f"{folder}/parquet/arrival=2011-01-05/a.parquet").to_pylist() == [{"x": 2, "who": 8}]
    (receipt,) = shop_of_files.receipts()
    assert sum(user["found"] for user in receipt["users"]) == 3 + 3 + 1


@pytest.mark.parametrize("damage", [lambda content: content[:-5], lambda content: content[:9] + b"\xff" + content[10:]])
def test_damaged_zstd_keeps_the_request_open(shop_of_files: Shop, damage: Callable[[bytes], bytes], capsys) -> None:
    shop_of_files.raw(
        "users", "a.zst", [as_line({"user_id": "bob"})] * 50, lambda each: damage(zstandard.compress(each))
    )
    assert shop_of_files.forget("ann") == 1
    assert "raw/users/arrival=2011-01-05/a.zst" in capsys.readouterr().out
