"""Bad deliveries: values, files and names for all ingestion jobs, in Python and in Spark."""

import csv
import datetime
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from recommending_lake import JOBS

from common.handover import storage
from common.handover.runner import exit_code
from common.ingestion import deliveries, records
from jobs.ingest_events import main as ingest_events
from jobs.ingest_items import main as ingest_items
from jobs.ingest_users import main as ingest_users

MAINS = {"events": ingest_events.main, "users": ingest_users.main, "items": ingest_items.main}
ARRIVAL = "2011-01-05"
UTC = datetime.UTC
TIME = '"2011-01-05T10:00:00Z"'
BAD, ABSENT = "bad", "absent"
DEEP = "[" * 100_000 + "]" * 100_000

IDS = [  # the value in JSON, its outcome: a text, ABSENT, BAD, or the reason why the line is unusable
    ('"ann"', "ann"), ('"A-1 b"', "A-1 b"), ("17", "17"), ('"17"', "17"), ("0", "0"), ("-5", "-5"),
    ("9223372036854775808", "9223372036854775808"), ("1" * 40, "1" * 40), ('"0017"', "0017"),
    ('"17.0"', "17.0"), ('"1e3"', "1e3"), ('"1.5E3"', "1.5E3"), ('"true"', "true"), ('"false"', "false"),
    ('"null"', "null"), ('"NaN"', "NaN"), ('"[1]"', "[1]"), ('"{}"', "{}"), ('"[abc"', "[abc"), ('"-"', "-"),
    ('"12345e67"', "12345e67"), ('"M\\u00fcller"', "Müller"), ('"Müller"', "Müller"), ('"\\ud83d\\ude00"', "😀"),
    ('"😀"', "😀"), ('"a\\\\ud83d"', "a\\ud83d"), ('"\\u2028"', "\u2028"), ('"a\u2028b"', "a\u2028b"),
    ('"\\/"', "/"), ('" "', " "), ('"\ufeffx"', "\ufeffx"), ('"\ufffd"', "\ufffd"), ('"a\\"b"', 'a"b'),
    (f'"{"x" * 1024}"', "x" * 1024), (f'"{"é" * 512}"', "é" * 512),
    ("null", ABSENT), ('""', ABSENT),
    ("17.0", BAD), ("1e3", BAD), ("-0.5", BAD), ("1E400", BAD), ("true", BAD), ("false", BAD), ("{}", BAD), ("[]", BAD),
    ('{"a": 1}', BAD), ('["ann"]', BAD), ("[[1], 2]", BAD), (f'"{"x" * 1025}"', BAD), (f'"{"é" * 513}"', BAD),
    (f'"{"x" * 100_000}"', BAD), ('"a\\u0000"', BAD), ('"\\u0000"', BAD), ('"a\\nb"', BAD), ('"a\\tb"', BAD),
    ('"\\u001f"', BAD), ('"\\u007f"', BAD), ('"\x7f"', BAD), ('"\\u0085"', BAD), ('"a\x85b"', BAD), ('"\x9f"', BAD),
    ("NaN", records.NOT_JSON), ("Infinity", records.NOT_JSON), ("-Infinity", records.NOT_JSON),
    ("'ann'", records.NOT_JSON), ("ann", records.NOT_JSON), ("+1", records.NOT_JSON), ("007", records.NOT_JSON),
    ("0x1F", records.NOT_JSON), ("undefined", records.NOT_JSON), ("", records.NOT_JSON), ('"a\tb"', records.NOT_JSON),
    ('"\\x41"', records.NOT_JSON), ('"ann', records.NOT_JSON), ("True", records.NOT_JSON),
    ('"\\ud83d"', records.HALF_A_PAIR), ('"\\ude00"', records.HALF_A_PAIR), ('"\\ud83dx\\ude00"', records.HALF_A_PAIR),
    ('"\\ud83d\\ud83d\\ude00"', records.HALF_A_PAIR), ('"\\\\\\uD83D"', records.HALF_A_PAIR),
    ('"\\ud83d\\ude00\\ude00"', records.HALF_A_PAIR),
]  # fmt: skip
TIMES = [  # the value in JSON, its moment, or the reason why it has none
    (TIME, "2011-01-05T10:00:00"), ('"2011-01-05 10:00:00"', "2011-01-05T10:00:00"),
    ('"2011-01-05T10:00"', "2011-01-05T10:00:00"), ('"2011-01-05T10:00Z"', "2011-01-05T10:00:00"),
    ('"2011-01-05"', "2011-01-05T00:00:00"), ('"2011-01-05T10:00:00.5Z"', "2011-01-05T10:00:00.500000"),
    ('"2011-01-05T10:00:00.123456Z"', "2011-01-05T10:00:00.123456"),
    ('"2011-01-05T10:00:00.123456789Z"', "2011-01-05T10:00:00.123456"),
    ('"2011-01-05T10:00:00+02:00"', "2011-01-05T08:00:00"), ('"2011-01-05T10:00:00-0530"', "2011-01-05T15:30:00"),
    ('"2011-01-05T10:00:00+14"', "2011-01-04T20:00:00"), ('"1970-01-01T00:00:00Z"', "1970-01-01T00:00:00"),
    ('"2011-01-06T23:59:59.999999Z"', "2011-01-06T23:59:59.999999"), ('"2008-02-29"', "2008-02-29T00:00:00"),
    ('"2011-01-07T00:00:00Z"', records.AFTER_ARRIVAL), ('"2031-01-01"', records.AFTER_ARRIVAL),
    ('"9999-12-31T23:59:59Z"', records.AFTER_ARRIVAL), ('"2011-01-06T23:00:00-02:00"', records.AFTER_ARRIVAL),
    *((value, records.BAD_TIME) for value in (
        "1294221600000", "1294221600", "1691241070000000", "1294221600.5", '"1294221600000"', '"now"', '"today"',
        '"yesterday"', '"epoch"', '"tomorrow"', '"10:00:00"', '"T10:00:00Z"', '"0000-01-01"', '"0000-01-01T00:00:00Z"',
        '"0001-01-01T00:00:00+14:00"', '"1969-12-31T23:59:59Z"', '"10000-01-01"', '"42982-05-05T00:00:00Z"',
        '"+12011-01-05"', '"-2011-01-05"', '"inf"', '"infinity"', '"-infinity"', '"NaT"', '""', "null", "true", "{}",
        "[]", '"2011-02-30"', '"2011-13-01"', '"2011-1-5"', '"20110105"', '"20110105T100000Z"', '"2011-W01-3"',
        '"2011-005"', '"2011-01"', '"2011"', '"05.01.2011"', '"01/05/2011"', '"2011-01-05T24:00:00Z"',
        '"2011-01-05T10:60:00Z"', '"2011-01-05T10:00:60Z"', '"2011-01-05T10:00:00+15:00"', '" 2011-01-05"',
        '"2011-01-05 "', '"2011-01-05\\n"', '"2011-01-05T10:00:00 UTC"', '"2011-01-05T10:00:00 Europe/Berlin"',
        '"٢٠١١-٠١-٠٥"', '"2011-01-05T10:00:00,5Z"', '"2011-01-05t10:00:00z"', '"2011-02-29"',
    )),
]  # fmt: skip
EVENT = (
    '{"event_id":%s,"user_id":"u","item_id":"i","type":"purchase","quantity":1,"unit_price":1.5,"time":%s,'
    '"country":"F"}'
)
CHANGE = '{"user_id":%s,"change":"subscribe","plan":"free","time":%s}'
LINES = [  # change of a good line, reason why it is unusable, or None
    (lambda line: line + b"\r", None), (lambda line: b"  " + line + b" \t", None),
    (lambda line: line.replace(b"{", b'{"page":"\xe2\x80\xa8 \xc2\x85",', 1), None),
    (lambda line: line.replace(b"{", b'{"page":[1,{"a":[]}],"x":1e999,"y":null,', 1), None),
    (lambda line: line.replace(b"{", b'{"user_id":"other","time":"no",', 1), None),  # the last of equal names counts
    (lambda line: line + line, records.NOT_JSON), (lambda line: line + b" " + line, records.NOT_JSON),
    (lambda line: line + b"," + line, records.NOT_JSON), (lambda line: line + b"]", records.NOT_JSON),
    (lambda line: line + b"],[" + line, records.NOT_JSON), (lambda line: line + b',"x":1', records.NOT_JSON),
    (lambda line: line + b"//", records.NOT_JSON), (lambda line: line + b"\0", records.NOT_JSON),
    (lambda line: line + b"x", records.NOT_JSON), (lambda line: line[:-1], records.NOT_JSON),
    (lambda line: line[:-1] + b",}", records.NOT_JSON), (lambda line: line[:-1] + b" , }", records.NOT_JSON),
    (lambda line: line[:-2] + b"\t}", records.NOT_JSON), (lambda line: line[:-2] + b"\\u00}", records.NOT_JSON),
    (lambda line: b"[" + line + b"]", records.NOT_JSON), (lambda line: b"\xef\xbb\xbf" + line, records.NOT_JSON),
    *((lambda line, text=text: text, records.NOT_JSON) for text in (b"", b"   ", b"]", b"null", b"3", b'"x"')),
    (lambda line: DEEP.encode(), records.NOT_JSON),
    (lambda line: line.replace(b"{", b'{"page":' + DEEP.encode() + b",", 1), records.NOT_JSON),
    (lambda line: line.replace(b"{", b'{"page":NaN,', 1), records.NOT_JSON),
    (lambda line: line.replace(b"{", b'{"page":"\x0b",', 1), records.NOT_JSON),
    (lambda line: line.replace(b"{", b'{"page":"M\xfcller",', 1), records.NOT_UTF8),
    (lambda line: line.replace(b"{", b'{"page":"\xc0\x80",', 1), records.NOT_UTF8),
    (lambda line: line.replace(b"{", b'{"page":"\xed\xa0\xbd",', 1), records.NOT_UTF8),
    (lambda line: line.replace(b"{", b'{"page":"\xf0\x9f\x98",', 1), records.NOT_UTF8),
    (lambda line: line.replace(b"{", b'{"page":"\\ud83d",', 1), records.HALF_A_PAIR),
    (lambda line: line.replace(b"{", b'{"page":"' + b"x" * (1 << 20) + b'",', 1), records.TOO_LONG),
]  # fmt: skip


class Level:
    """Raw level of a lake, jobs that read it, and their outputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "lake"
        self.root = f"file://{self.folder}"

    def deliver(self, kind: str, lines: list[bytes], name: str = "a.gz", arrival: str = f"arrival={ARRIVAL}") -> Path:
        file = self.folder / "raw" / kind / arrival / name
        file.parent.mkdir(parents=True, exist_ok=True)
        content = b"".join(line + b"\n" for line in lines)
        file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return file

    def arguments(self, kind: str, *more: str, run: str = "r") -> list[str]:
        identity = ["--lake", self.root, "--dag-id", "d", "--run-id", run, "--task-id", kind, "--attempt", "1"]
        return [*identity, *more]

    def run(self, kind: str, *more: str, run: str = "r") -> int:
        return exit_code(MAINS[kind], JOBS / f"ingest_{kind}", self.arguments(kind, *more, run=run))

    def manifest(self, kind: str, run: str = "r") -> dict:
        return json.loads((self.folder / f"intermediate/d/{run}/{kind}/manifest.json").read_text())

    def quarantine(self, kind: str, run: str = "r") -> list[dict]:
        folder = self.folder / f"intermediate/d/{run}/{kind}"
        files = self.manifest(kind, run)["outputs"]["quarantine"]["files"]
        return [row for file in files for row in pq.ParquetFile(folder / file["path"]).read().to_pylist()]

    def curated(self, kind: str) -> list[dict]:
        found = []
        for manifest in sorted((self.folder / "curated" / kind).glob("*/manifest.json")):
            (output,) = json.loads(manifest.read_text())["outputs"].values()
            for file in output["files"]:
                found += pq.ParquetFile(manifest.parent / file["path"]).read().to_pylist()
        return found

    def reasons(self, kind: str) -> dict[int, str]:
        """Return the reason of each quarantined line; assert that all lines are accounted for."""
        rows = [row for row in self.quarantine(kind) if row["line"]]
        metrics = self.manifest(kind)["metrics"]
        assert len(rows) == metrics["unusable"] == sum(metrics["reasons"].values())
        if kind == "events":
            assert metrics["lines"] == metrics["events"] + metrics["duplicates"] + metrics["unusable"]
        return {row["line"]: row["reason"] for row in rows}


@pytest.fixture
def level(tmp_path: Path) -> Level:
    return Level(tmp_path)


ANY = ("--set", "max_quarantined_share=1")


def expected_of(fate: str, what: str, required: bool) -> str | None:
    """Return the reason of a line with such a value, None if it is used."""
    if fate in (BAD, ABSENT):
        return records.bad(what) if fate == BAD else records.missing(what) if required else None
    return fate if fate in (records.NOT_JSON, records.HALF_A_PAIR) else None


def kept(fate: str) -> bool:
    return fate not in (BAD, ABSENT, records.NOT_JSON, records.HALF_A_PAIR)


def test_ids_and_words_follow_one_rule_in_all_jobs(level: Level, session: SparkSession) -> None:
    fields = {"event_id": "event ID", "item_id": "item ID", "user_id": "user ID", "country": "country"}
    event = {"event_id": "", "item_id": '"i"', "user_id": '"u"', "country": '"F"'}
    lines, expected = [], {}
    for name, what in fields.items():
        for value, fate in IDS:
            values = {**event, "event_id": f'"e{len(lines)}"', name: value}
            pairs = "".join(f',"{key}":{text}' for key, text in values.items())
            lines.append(
                f'{{"type":"purchase","quantity":{len(lines) + 1},"unit_price":1,"time":{TIME}{pairs}}}'.encode()
            )
            if reason := expected_of(fate, what, name in ("event_id", "item_id")):
                expected[len(lines)] = reason
    level.deliver("events", lines)
    assert level.run("events", *ANY) == 0
    assert level.reasons("events") == expected
    found = {row["quantity"]: row for row in level.curated("events")}
    for position, (name, (value, fate)) in enumerate((name, case) for name in fields for case in IDS):
        if position + 1 in found and name != "event_id":
            assert found[position + 1][name] == (fate if kept(fate) else None), value
    assert {fate for _, fate in IDS if kept(fate)} <= {row["event_id"] for row in found.values()}

    lines, expected = [], {}
    for name, what in {"user_id": "user ID", "country": "country", "platform": "platform"}.items():
        for value, fate in IDS:
            values = {"user_id": f'"u{len(lines)}"', name: value}
            pairs = "".join(f',"{key}":{text}' for key, text in values.items())
            lines.append(f'{{"change":"subscribe","plan":"free","time":{TIME}{pairs}}}'.encode())
            if reason := expected_of(fate, what, name == "user_id"):
                expected[len(lines)] = reason
    level.deliver("users", lines)
    assert level.run("users", *ANY) == 0
    assert level.reasons("users") == expected
    found = {row["user_id"]: row for row in level.curated("users")}
    assert {fate for _, fate in IDS if kept(fate)} <= found.keys()
    for position, (value, fate) in enumerate(IDS, start=len(IDS)):
        if kept(fate):
            assert found[f"u{position}"]["country"] == fate, value


def test_texts_of_a_catalogue_follow_the_same_rule(level: Level) -> None:
    texts = [(json.loads(value), fate) for value, fate in IDS if value.startswith('"') and (kept(fate) or fate == BAD)]
    texts = [
        (f"12345{text}", f"12345{fate}" if fate != BAD else BAD) for text, fate in texts if len(text) not in (1024, 512)
    ]
    lines = [row("item_id", "description", "seen"), *(row(text, "PAPER BAG", "2011-01-01") for text, _ in texts)]
    level.deliver("items", lines, "items.csv")
    assert level.run("items", *ANY) == 0
    found = {row["item_id"] for row in level.curated("items")}
    assert found == {fate for text, fate in texts if fate != BAD}
    assert set(level.reasons("items").values()) == {records.bad("item ID")}


def row(*values: str) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().removesuffix("\n").encode()


def test_times_follow_one_rule_in_all_jobs(level: Level, session: SparkSession) -> None:
    level.deliver("events", [(EVENT % (f'"e{n}"', value)).encode() for n, (value, _) in enumerate(TIMES)])
    level.deliver("users", [(CHANGE % (f'"u{n}"', value)).encode() for n, (value, _) in enumerate(TIMES)])
    texts = [(n, json.loads(value)) for n, (value, _) in enumerate(TIMES) if value.startswith('"')]
    header = row("item_id", "description", "seen")
    level.deliver("items", [header, *(row(f"{10000 + n}", "PAPER BAG", text) for n, text in texts)], "items.csv")
    reasons = {n + 1: fate for n, (_, fate) in enumerate(TIMES) if fate in (records.BAD_TIME, records.AFTER_ARRIVAL)}
    for kind in ("events", "users", "items"):
        assert level.run(kind, *ANY) == 0
    assert level.reasons("events") == level.reasons("users") == reasons
    wanted = {n: fate for n, (_, fate) in enumerate(TIMES) if n + 1 not in reasons}
    for kind, key, column in (("events", "event_id", "time"), ("users", "user_id", "since")):
        found = {int(row[key][1:]): row[column] for row in level.curated(kind)}
        assert {n: time.replace(tzinfo=None).isoformat() for n, time in found.items()} == wanted
    assert {int(row["item_id"]) - 10000 for row in level.curated("items")} == {n for n, _ in texts} & wanted.keys()


def test_lines_that_are_not_one_json_object_are_quarantined(level: Level, session: SparkSession) -> None:
    for kind, form in (("events", EVENT), ("users", CHANGE)):
        goods = [(form % (f'"x{n}"', TIME)).encode() for n in range(len(LINES))]
        changed = [change(good) for good, (change, _) in zip(goods, LINES, strict=True)]
        level.deliver(kind, changed)
        assert level.run(kind, *ANY) == 0
        expected = {n: reason for n, (_, reason) in enumerate(LINES, start=1) if reason}
        assert level.reasons(kind) == expected
        rows = {row["line"]: row for row in level.quarantine(kind)}
        for number, line in enumerate(changed, start=1):
            if number in expected:
                assert rows[number]["bytes"] == len(line)
                assert rows[number]["content"] == records.escape(line)
                assert len(rows[number]["content"] or "") <= 4 * records.MAX_KEPT
        name = "event_id" if kind == "events" else "user_id"
        assert {row[name] for row in level.curated(kind)} == {f"x{n - 1}" for n in range(1, 1 + len(LINES))} - {
            f"x{n - 1}" for n in expected
        }


GOOD = {
    "events": [(EVENT % (f'"e{n}"', TIME)).encode() for n in range(20)],
    "users": [(CHANGE % (f'"u{n}"', TIME)).encode() for n in range(20)],
}
PACKED = gzip.compress(b"".join(line + b"\n" for line in GOOD["users"]))
CORRUPT = {  # the bytes of a file *.gz, the beginning of the reason
    "cut": (PACKED[:-20], "gzip that is cut off"),
    "cut in the header": (PACKED[:5], "gzip that is cut off"),
    "without its end": (PACKED[:-8], "gzip that is cut off"),
    "flipped": (PACKED[:40] + bytes([PACKED[40] ^ 255]) + PACKED[41:], "corrupt gzip"),
    "wrong checksum": (PACKED[:-8] + b"\0" * 8, "corrupt gzip"),
    "garbage behind": (PACKED + b"garbage", "corrupt gzip"),
    "zeros behind": (PACKED + bytes(64), "corrupt gzip"),
    "plain": (b"".join(line + b"\n" for line in GOOD["users"]), "not gzip"),
    "zip": (b"PK\x03\x04" + bytes(100), "not gzip"),
    "html": (b"<html>502 Bad Gateway</html>", "not gzip"),
    "empty": (b"", "empty, not gzip"),
    "tiny lines": (gzip.compress(b"{}\n" * (6 << 20)), "it unpacks to more than 100 times its size"),
}


@pytest.mark.parametrize("kind", ["events", "users"])
def test_corrupt_files_are_quarantined_and_the_rest_is_used(
    level: Level, kind: str, session: SparkSession, capsys: pytest.CaptureFixture
) -> None:
    first = level.deliver(kind, [])
    for name, (content, _) in CORRUPT.items():
        first.with_name(f"{name}.gz").write_bytes(content)
    first.with_name("of another kind.parquet").write_bytes(b"PAR1")
    first.with_name("to nothing.gz").symlink_to("nothing")
    os.mkfifo(first.with_name("pipe.gz"))
    first.unlink()
    assert level.run(kind) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"No file in {level.root}/raw/{kind} can be read")
    assert "contract" not in last and "retry" not in last

    members = [GOOD[kind][:10], GOOD[kind][10:]]
    first.write_bytes(b"".join(gzip.compress(b"".join(line + b"\n" for line in member)) for member in members))
    assert level.run(kind, run="again") == 0
    assert len(level.curated(kind)) == 20
    rows = {Path(row["file"]).stem: row for row in level.quarantine(kind, "again")}
    for name, (content, reason) in CORRUPT.items():
        assert rows[name]["reason"].startswith(reason), name
        assert (rows[name]["line"], rows[name]["bytes"]) == (None, len(content))
    assert rows["of another kind"]["reason"] == "not a file *.gz"
    assert rows["to nothing"]["reason"] == rows["pipe"]["reason"] == "not a regular file"
    assert level.manifest(kind, "again")["metrics"]["files_quarantined"] == len(CORRUPT) + 3


NAMES = ["a[1]", "a{b,c}", "a*b?", "a%20b", "a b#c", "back\\slash", "ünï😀", "a:b", "x=1,y=2", "+", "(1)", "'\"`$", "-"]
FOLDERS = ["latest", "20110105", "2011-02-30", "2011-1-5", "2011-13-45", "2011-W01-3", "2011-01-05 ", "9999-12-31", ""]


@pytest.mark.parametrize("kind", ["events", "users"])
def test_names_are_literal_and_folders_without_a_day_left_out(
    level: Level, kind: str, session: SparkSession, capsys: pytest.CaptureFixture
) -> None:
    for folder in FOLDERS:
        level.deliver(kind, GOOD[kind], arrival=f"arrival={folder}")
    level.deliver(kind, GOOD[kind], arrival="2011-01-05")
    assert level.run(kind) == 3
    assert "arrival=" in capsys.readouterr().err.splitlines()[-1]
    form = EVENT if kind == "events" else CHANGE
    for number, name in enumerate(NAMES):
        level.deliver(kind, [(form % (f'"n{number}"', TIME)).encode()], f"{name}.gz")
        level.deliver(kind, [(form % (f'"s{number}"', TIME)).encode()], f"hour=3/{name}.gz")
    level.deliver(kind, GOOD[kind], "new\nline.gz")
    assert level.run(kind, run="again") == 0
    key = "event_id" if kind == "events" else "user_id"
    assert sorted(row[key] for row in level.curated(kind)) == sorted(f"{c}{n}" for n in range(len(NAMES)) for c in "ns")
    left_out = level.quarantine(kind, "again")
    waiting = level.manifest(kind, "again")["metrics"].get("files_waiting", 0)  # of 9999
    assert len(left_out) == len(FOLDERS) + 2 - waiting
    assert all(row["line"] is None and row["bytes"] > 0 for row in left_out)
    assert any("new\\x0aline" in row["file"] for row in left_out)


@pytest.mark.parametrize("kind", ["events", "users"])
def test_share_of_unusable_lines_is_per_file(level: Level, kind: str, session: SparkSession) -> None:
    form = EVENT if kind == "events" else CHANGE
    level.deliver(kind, [(form % (f'"good {n}"', TIME)).encode() for n in range(300)], "good.gz")
    level.deliver(kind, [b"no"] * 9 + [(form % (f'"few {n}"', TIME)).encode() for n in range(5)], "few.gz")
    bad = [(form % (f'"bad {n}"', TIME)).encode() for n in range(30)]
    bad[7] = b'"' + b"x" * (2 << 20) + b'"'  # Spark's reader drops it, which shifts later lines
    level.deliver(kind, [b"no"] * 5 + bad + [b"no"] * 5, "bad.gz")
    assert level.run(kind) == 0
    key = "event_id" if kind == "events" else "user_id"
    assert {row[key].split()[0] for row in level.curated(kind)} == {"good", "few"}
    rows = {row["line"]: row for row in level.quarantine(kind) if row["file"].endswith("/bad.gz")}
    assert sorted(rows) == list(range(1, 41))
    assert rows[13]["reason"] == records.TOO_LONG and rows[13]["bytes"] == (2 << 20) + 2
    assert [rows[line]["reason"] for line in (1, 6, 14, 36)] == [
        records.NOT_JSON, records.IN_BAD_FILE, records.IN_BAD_FILE, records.NOT_JSON,
    ]  # fmt: skip
    assert rows[14]["content"] == bad[8].decode()
    metrics = level.manifest(kind)["metrics"]
    assert (metrics["files_left_out"], metrics["unusable"]) == (1, 9 + 40)


BOMBS = {  # additional content of files, before compression
    "one line of 50 MB": lambda: b'{"user_id":"' + b"x" * 50_000_000 + b'"}\n',
    "one line of 400 MB": lambda: b"x" * 400_000_000 + b"\n",
    "many lines of 1 MB": lambda: (b"x" * 1_000_000 + b"\n") * 150,
    "many empty objects": lambda: b"{}\n" * (6 << 20),
}


@pytest.mark.system
@pytest.mark.parametrize("kind", ["events", "users", "items"])
def test_compression_bombs_take_little_memory_and_stop_nothing(level: Level, kind: str) -> None:
    """All bombs in one delivery. Catalogues are not compressed: each of their empty objects is quarantined as a row."""
    bombs = {name: content() for name, content in BOMBS.items()}
    if kind == "items":
        goods = [b"item_id,description,seen", *(b"%d,PAPER BAG,2011-01-01" % (10000 + n) for n in range(20))]
        level.deliver(kind, goods, "good.csv")
        bombs["many empty objects"] = bombs["many empty objects"][: 6 << 20]
        for name, content in bombs.items():
            level.deliver(kind, [goods[0], content], f"{name}.csv")
    else:
        level.deliver(kind, GOOD[kind], "good.gz")
        for name, content in bombs.items():
            level.deliver(kind, [content], f"{name}.gz")
    main = JOBS / f"ingest_{kind}" / "main.py"
    done = subprocess.run(
        [sys.executable, str(main), *level.arguments(kind)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(JOBS.parent)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(level.curated(kind)) == 20
    assert level.manifest(kind)["peak_memory_bytes"] < (1800 if kind == "events" else 500) << 20
    folder = level.folder / f"intermediate/d/r/{kind}"
    files = level.manifest(kind)["outputs"]["quarantine"]["files"]
    left_out = {name for file in files for name in pq.read_table(folder / file["path"])["file"].unique().to_pylist()}
    assert {Path(name).stem for name in left_out} == set(BOMBS)


ROWS = [  # lines of a catalogue, the reasons of the unusable ones
    (["10001,PAPER BAG,2011-01-01"], []),
    (['10001,"PAPER\nBAG",2011-01-01'], []),
    (['10001,"PAPER\r\nBAG",2011-01-01\r'], []),
    (['10001,BAG 12" WIDE,2011-01-01'], []),
    (['10001,"BAG 12"" WIDE",2011-01-01'], []),
    (["10001,PAPER BAG"], ["another number of fields than the header"]),
    (["10001"], ["another number of fields than the header"]),
    (["10001,PAPER,BAG,2011-01-01"], ["another number of fields than the header"]),
    (['10001,"PAPER BAG,2011-01-01'], ["not CSV"]),
    (['10001,"PAPER"BAG,2011-01-01'], ["not CSV"]),
    ([""], []),
    ([",PAPER BAG,2011-01-01"], ["no item ID"]),
    (["10001,PAPER BAG,"], ["bad time"]),
    (["10001,PAPER BAG,soon"], ["bad time"]),
    (["10001,PAPER BAG,2031-01-01"], ["time after the arrival"]),
    ([f"10001,{'PAPER ' * 300}BAG,2011-01-01"], ["bad name"]),
    (["10001,PAPER\0BAG,2011-01-01"], ["bad name"]),
]


@pytest.mark.parametrize(("lines", "reasons"), ROWS, ids=range(len(ROWS)))
def test_bad_row_of_a_catalogue_affects_no_other_row(level: Level, lines: list[str], reasons: list[str]) -> None:
    goods = [f'{20000 + n},"LARGE, BAG",2011-01-01T00:00:00.5Z' for n in range(50)]
    text = ["item_id,description,seen", *goods[:25], *lines, *goods[25:]]
    level.deliver("items", [line.encode() for line in text], "items.csv")
    assert level.run("items") == 0
    found = {row["item_id"] for row in level.curated("items")}
    assert found - {"10001"} == {str(20000 + n) for n in range(50)}
    assert ("10001" in found) == (not reasons and lines != [""])
    assert level.reasons("items") == dict.fromkeys([27], *reasons) if reasons else True
    assert level.manifest("items")["metrics"]["lines"] == 50 + (lines != [""])


@pytest.mark.parametrize("kind", ["users", "items"])
def test_full_replacement_is_guarded_by_the_published_keys(
    level: Level, kind: str, capsys: pytest.CaptureFixture
) -> None:
    def deliver(count: int) -> None:
        if kind == "users":
            level.deliver(kind, GOOD[kind][:count])
        else:
            items = [b"%d,PAPER BAG,2011-01-01" % (10000 + n) for n in range(count)]
            level.deliver(kind, [b"item_id,description,seen", *items], "items.csv")

    def attempt(name: str, *more: str) -> int:
        return level.run(kind, *more, run=name)

    deliver(0)
    assert attempt("empty first") == 4
    deliver(20)
    assert attempt("first") == 0
    deliver(16)
    assert attempt("a fifth less") == 0
    deliver(20)
    assert attempt("back") == 0
    for count in (0, 15):
        deliver(count)
        assert attempt(f"down to {count}") == 4
    assert "5 of the 20 values of" in (last := capsys.readouterr().err.splitlines()[-1]) and "max_key_drop" in last
    assert len(level.curated(kind)) == 20
    assert attempt("wanted", "--set", "max_key_drop=0.5") == 0
    assert len(level.curated(kind)) == 15


@given(st.lists(st.binary(max_size=40), max_size=12), st.booleans(), st.integers(1, 9))
def test_survey_and_lines_agree_on_any_bytes(tmp_path_factory, parts: list[bytes], ended: bool, chunk: int) -> None:
    content = b"\n".join(parts) + (b"\n" if ended else b"")
    path = tmp_path_factory.mktemp("any") / "a.gz"
    path.write_bytes(gzip.compress(content))
    file = storage.File(f"file://{path}", path.stat().st_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deliveries, "CHUNK", chunk)
        patch.setattr(deliveries, "MAX_RECORD", 20)
        patch.setattr(deliveries, "MAX_KEPT", 6)
        lines, survey = list(deliveries.lines(file)), deliveries.survey(file)
    assert survey.lines == len(lines)
    assert survey.too_long == [line for line in lines if line.too_long]
    expected = content.split(b"\n")[: None if content and not content.endswith(b"\n") else -1]
    assert [line.size for line in lines] == [len(line) for line in expected]
    assert all(whole.startswith(line.content) for line, whole in zip(lines, expected, strict=True))
