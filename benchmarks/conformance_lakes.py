"""Lakes on which the engines of Spark jobs must agree: the sample, a generated shop, values at the edges."""

import datetime
import gzip
import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.engines.arrow import schema_of
from common.handover import manifest, storage
from tools.data import generate_data, load_sample
from tools.data.generate_data import DayFile
from tools.data.shop_model import Settings

Row = dict[str, Any]
Change = Callable[[pa.Table], pa.Table]
EDGE_USERS, EDGE_EVENTS = 60, 1500
TEXTS = [
    *(
        "ann",
        "ANN",
        "Ann ",
        " ann",
        "é",
        "e\u0301",
        "ß",
        "ss",
        "İ",
        "😀",
        "\ufeffx",
        "a\u2028b",
        "\u00a0",
        " ",
        "0",
        "-0",
    ),
    *(
        "null",
        "NaN",
        "1e3",
        "'",
        '"',
        "a'b\"c\\",
        "\\",
        "%",
        "_",
        "$1",
        "{}",
        "a/b=c",
        "\U0010ffff",
        "é" * 512,
        "x" * 1024,
    ),
]
NUMBERS = [None, 0, 1, 2, -1, 7, 2**31 - 1, 2**31, -(2**31), 2**53 + 1]
REALS = [None, 0.0, -0.0, 0.1, -0.1, 1.5, 3.0, 5.0, 2.5, 1e-300, 5e-324, 1e15, 123456.789]
TYPES = ["purchase", "purchase", "purchase", "cancellation", "rating", "rating", "zap", "Purchase", "purchase "]
COUNTRIES = [None, "FR", "fr", "Côte d’Ivoire", "", "United Kingdom"]
OFFSETS = [0, 1, -1, 500_000, 86_399_999_999, 86_400_000_000, 3_600_000_000]  # microseconds from midnight
ENDS = {  # of the lakes with rows at the edges: the newest day
    "leap day": datetime.date(2012, 2, 29),
    "before 1970": datetime.date(1970, 1, 2),
    "year 9999": datetime.date(9999, 12, 30),
}


def sample(lake: Path) -> None:
    """Fill a lake with some transactions of the sample's first days, in its raw level."""
    source = lake.parent / "sample" / "online-retail-ii" / "transactions.parquet"
    source.parent.mkdir(parents=True)
    table = pq.read_table(load_sample.SOURCE).slice(0, 30_000).take(pa.array(range(0, 30_000, 10)))
    pq.write_table(table, source)
    load_sample.load(source, f"file://{lake}")
    put_predictions(lake, sorted({str(each) for each in table["customer_id"].drop_null().to_pylist()}))


def shop(lake: Path) -> None:
    """Fill a lake with a generated shop's deliveries."""
    settings = Settings(200, 60, 3000, 3, 21, datetime.date(2024, 2, 20))
    generate_data.generate(settings, "raw", f"file://{lake}", 1)
    put_predictions(lake, [f"u{number:07}" for number in range(220)])


def edges(lake: Path, newest: datetime.date) -> None:
    """Fill a lake with events, items and plans whose values are drawn from the edges of their types."""
    draw = random.Random(newest.toordinal())
    users = [
        f"{number} {text}" if number >= len(TEXTS) else text
        for number, text in zip(range(EDGE_USERS), itertools.cycle(TEXTS))
    ]
    users = [each for each in users if len(each.encode()) <= 1024]
    items = TEXTS[::2]
    put_events(lake, [edge_event(draw, number, users, items, newest) for number in range(EDGE_EVENTS)])
    put(lake / "curated/items/all", "items", "items@2", [edge_item(draw, item) for item in items[:-3]])
    put(lake / "curated/users/all", "users", "users@2", list(edge_periods(draw, users, newest)))
    put_predictions(lake, [*users, "nobody"])


def edge_event(draw: random.Random, number: int, users: list[str], items: list[str], newest: datetime.date) -> Row:
    quantity, value = draw.choice(NUMBERS), draw.choice(REALS)
    return {
        "source": draw.choice(["shop", "Shop"]),
        "event_id": f"e{number}",
        "user_id": draw.choice([None, *users]),
        "item_id": draw.choice([None, *items]),
        "type": draw.choice(TYPES),
        "time": moment(draw, newest),
        "value": value,
        "quantity": quantity,
        "unit_price": draw.choice(REALS),
        "session_id": draw.choice([None, "s1", "s2", *TEXTS[:4]]),
        "platform": draw.choice([None, "web", "ios", "Web"]),
        "country": draw.choice(COUNTRIES) or None,
        "context": draw.choice([None, [], [("k", "v")], [("é", ""), ("a", "b")]]),
        "arrival": draw.choice([None, newest]),
    }


def moment(draw: random.Random, newest: datetime.date) -> datetime.datetime:
    """Return a time of one of the days before the newest day's end: often at a boundary, often the same."""
    days = draw.choice([0, 0, 0, 1, 2, 6, 7, 8, 13, 14, 27, 28, 29, 30, 59, 60, 61, 90, 180, 365, 366, 729])
    midnight = datetime.datetime.combine(newest - datetime.timedelta(days=days), datetime.time(), datetime.UTC)
    offset = draw.choice(OFFSETS) if days else draw.choice([0, 1, 86_399_999_999])
    return midnight + datetime.timedelta(microseconds=offset)


def edge_item(draw: random.Random, item: str) -> Row:
    available = [
        None,
        datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC),
        datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC),
    ]
    family = draw.choice([None, "mugs", "Mugs", "é"])
    return {
        "item_id": item,
        "name": item,
        "family": family,
        "available_from": draw.choice(available[:2]),
        "available_until": draw.choice([None, *available]),
    }


def edge_periods(draw: random.Random, users: list[str], newest: datetime.date) -> Iterator[Row]:
    """Yield the plans of some users: periods that follow each other, the last one with or without an end."""
    for user in draw.sample(users, len(users) // 2):
        times = sorted({moment(draw, newest) for _ in range(draw.choice([1, 2, 4]))})
        ends = [*times[1:], draw.choice([None, times[-1] + datetime.timedelta(days=1)])]
        for since, until in zip(times, ends, strict=True):
            change = "subscribe" if since == times[0] else draw.choice(["change", "cancel"])
            plan = None if change == "cancel" else draw.choice([None, "free", "basic"])
            more = {"country": draw.choice(COUNTRIES) or None, "platform": draw.choice([None, "web", "ios"])}
            yield {"user_id": user, "since": since, "until": until, "plan": plan, "change": change, **more}


def put_predictions(lake: Path, users: list[str]) -> None:
    """Publish a churn prediction per user, as the task `predicted`."""
    likely = {"segment": "active", "churn_probability": 0.1, "model": "trees"}
    rows = [{**likely, "user_id": user, "contribution_1": -0.0} for user in users]
    put(lake / "intermediate/dag/run/predicted", "predictions", "churn_predictions@2", rows)


def table_of(contract: str, rows: list[Row]) -> pa.Table:
    """Return rows with the columns of a contract; a missing one is null."""
    return pa.Table.from_pylist(rows, pa.schema([field.with_nullable(True) for field in schema_of(contract)]))


def put(folder: Path, role: str, contract: str, rows: list[Row]) -> None:
    """Publish rows as the output of a task, or as a dataset."""
    folder.mkdir(parents=True)
    pq.write_table(table_of(contract, rows), folder / "part-0.parquet")
    files = [{"path": "part-0.parquet", "bytes": (folder / "part-0.parquet").stat().st_size}]
    output = {"contract": contract, "rows": len(rows), "bytes": files[0]["bytes"], "files": files}
    task = {"dag_id": "dag", "run_id": "run", "task_id": role, "attempt": 1, "map_index": None, "map_count": None}
    document = {"format": manifest.FORMAT, "task": task, "job": role, "fingerprint": "", "parameters": {}}
    document |= {"metrics": {}, "parents": [], "outputs": {role: output}}
    storage.write(f"file://{folder}/manifest.json", manifest.to_json(document))


def put_events(lake: Path, rows: list[Row], change: Change | None = None) -> None:
    """Publish events by day, each day's table changed before it is written."""
    files = []
    by_day = sorted(rows, key=lambda row: row["time"])
    for day, of_day in itertools.groupby(by_day, key=lambda row: str(row["time"].date())):
        table = table_of("events@3", list(of_day))
        file = lake / f"curated/events/date={day}/version=a-1/part-0.parquet"
        file.parent.mkdir(parents=True)
        pq.write_table(change(table) if change else table, file)
        files.append(DayFile(day, storage.File(f"file://{file}", file.stat().st_size), len(table)))
    generate_data.publish(f"file://{lake}", {"seed": 1}, files)


def raw_edges(lake: Path) -> None:
    """Deliver events whose values are drawn from the edges of JSON, some of them no events, over several days.

    Python parses all lines of a block with one that is not UTF-8, so only the first day has such lines.
    """
    draw = random.Random(1)
    for day in range(1, 4):
        lines = [edge_line(draw, number) for number in range(300)]
        lines += [NOT_UTF8] if day == 1 else []
        file = lake / f"raw/events/arrival=2012-03-0{day}/{day}.jsonl.gz"
        file.parent.mkdir(parents=True)
        file.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines)))
    put_predictions(lake, TEXTS)


TIMES = [
    *("2012-02-29T23:59:59.999999Z", "2012-02-29T00:00:00Z", "2011-02-29T00:00:00Z", "1970-01-01T00:00:00Z"),
    *("1969-12-31T23:59:59.999999Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "2012-03-01T00:30:00+01:00"),
    *("2012-03-01T12:00:00", "2012-03-01 12:00:00Z", "2012-03-01", "1330560000", "", "2012-03-01T24:00:00Z"),
    *("2012-03-01T12:00:00.1234567Z", "2012-03-01T12:00Z", "2012-3-1T12:00:00Z", "2012-03-01T12:00:00-23:59"),
]
VALUES: list[Any] = [
    None,
    0,
    -0.0,
    1,
    1.0,
    2.5,
    -1,
    2**31,
    2**63 - 1,
    2**63,
    -(2**63),
    1e300,
    1e-320,
    True,
    "1",
    " 1 ",
    "x",
    "",
    [],
    {},
    [1],
]
NOT_UTF8 = b"\xff"
PIECES = [*',:{}[]" \t\\-+.e01', ", ", '""', "NaN", "-Infinity", "null", "true", "1e999"]
PIECES += ['"type":"view",', "'", "//", "\x00"]
USUAL = {"type": "purchase", "time": "2012-02-28T10:00:00Z", "item_id": "cup", "quantity": 1, "unit_price": 1.5}
LINES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"event_id": "a", "event_id": "b"}',
    b'{"event_id": "\\ud800"}',
    b"{} {}",
    b"  ",
    b'{"a": 1e999}',
]


def edge_line(draw: random.Random, number: int) -> bytes:
    """Return a line of JSON: mostly an event with some odd values, or with another piece of text somewhere."""
    if draw.random() < 0.05:
        return draw.choice(LINES)
    event: Row = {**USUAL, "event_id": f"e{number % 250}", "user_id": draw.choice(TEXTS)}
    odd = dict.fromkeys(("quantity", "unit_price", "value", "position", "event_id", "extra"), VALUES)
    odd |= {
        "time": [*TIMES, 5, None],
        "user_id": [*TEXTS, *VALUES],
        "item_id": [*TEXTS, *VALUES],
        "type": [*TYPES, *VALUES],
    }
    odd |= {
        "country": [*COUNTRIES, "x" * 2000, "a\tb"],
        "session_id": VALUES,
        "context": [*VALUES, {"a": "b"}, {"a": 1}],
    }
    for name in draw.sample(sorted(odd), draw.choice([0, 0, 1, 1, 2])):
        event[name] = draw.choice(odd[name])
    text = json.dumps(event, ensure_ascii=draw.random() < 0.5)
    for _ in range(draw.choice([0, 0, 1, 2])):
        text = edited(draw, text)
    return text.encode("utf-8", "surrogatepass")


def edited(draw: random.Random, line: str) -> str:
    """Return a line with another piece of text somewhere."""
    start = draw.randrange(len(line) or 1)
    piece: str = draw.choice(PIECES)
    return line[:start] + piece + line[start + draw.randrange(3) :]
