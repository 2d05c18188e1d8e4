"""Public schemas, small: the proposed mapping of each, by names and by values alone."""

import gzip
import json
import random
import tomllib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from common.errors import TaskError
from common.sources import source
from tools.adopt import layout, mapping, source_file

ROWS = 300


def rows(*columns):
    """Return rows of the values that functions of a random generator make."""
    random_ = random.Random(1)
    return [[str(make(random_)) for make in columns] for _ in range(ROWS)]


def whole(low, high):
    return lambda random_: random_.randint(low, high)


def one_of(*values):
    return lambda random_: random_.choice(values)


def csv_text(columns, *makers, delimiter=",", quote=""):
    lines = [columns, *rows(*makers)] if columns else rows(*makers)
    return "".join(delimiter.join(f"{quote}{cell}{quote}" for cell in line) + "\n" for line in lines)


def day_of(pattern):
    return lambda random_: pattern.format(day=random_.randint(1, 28), month=random_.randint(1, 12))


def parquet_of(arrays, names):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(list(map(pa.array, arrays)), names=names), sink)
    return sink.getvalue().to_pybytes()


def json_lines(make):
    random_ = random.Random(1)
    return "".join(json.dumps(make(random_, number)) + "\n" for number in range(ROWS))


def ga4(random_, number):
    entry = {"item_id": f"sku{random_.randint(1, 50)}", "price": random_.randint(1, 9) / 2, "quantity": 1}
    return {
        "event_timestamp": 1612069510766593 + number * 10**9,
        "event_name": random_.choice(["page_view", "view_item", "purchase"]),
        "event_params": [{"key": "ga_session_id", "value": {"int_value": 7}}],
        "user_id": None,
        "user_pseudo_id": f"{random_.randint(1, 30)}.{random_.randint(1, 3)}",
        "device": {"category": random_.choice(["mobile", "desktop"])},
        "geo": {"country": random_.choice(["Germany", "India"])},
        "items": [entry] * random_.randint(0, 2),
    }


def segment(random_, number):
    several = {"products": [{"product_id": f"p{random_.randint(1, 50)}", "price": 3.5, "quantity": 2}]}
    completed = random_.random() < 0.3
    return {
        "messageId": f"m{number}",
        "event": "Order Completed" if completed else "Product Viewed",
        "userId": random_.choice([None, f"u{random_.randint(1, 30)}"]),
        "anonymousId": f"a{random_.randint(1, 60)}",
        "timestamp": f"2024-01-{random_.randint(1, 28):02d}T10:00:00.123Z",
        "context": {"os": {"name": random_.choice(["iOS", "Android"])}},
        "properties": several if completed else {"product_id": f"p{random_.randint(1, 50)}", "price": 3.5},
    }


MILLISECONDS, SECONDS = whole(1430622004384, 1442537187788), whole(874724710, 893286638)
CASES = {
    "retailrocket.csv": (
        csv_text(["timestamp", "visitorid", "event", "itemid", "transactionid"], MILLISECONDS, whole(0, 90),
                 one_of("view", "addtocart", "transaction"), whole(3, 99), one_of("", "7", "8")),
        {"time": "timestamp_millis(timestamp)", "user_id": "visitorid", "item_id": "itemid", "type": "event"},
    ),
    "rees46.csv": (
        csv_text(["event_time", "event_type", "product_id", "category_code", "brand", "price", "user_id",
                  "user_session"], day_of("2019-{month:02d}-{day:02d} 10:01:02 UTC"),
                 one_of("view", "cart", "purchase"),
                 whole(1000, 1099), one_of("a.b", "c"), one_of("", "lg"), one_of(1.5, 33), whole(500, 590),
                 whole(10**8, 10**9)),
        {"time": "replace(event_time, ' UTC', 'Z')", "type": "event_type", "item_id": "product_id",
         "unit_price": "price", "user_id": "user_id", "session_id": "user_session"},
    ),
    "yoochoose-clicks.dat": (
        csv_text([], whole(1, 90), day_of("2014-{month:02d}-{day:02d}T10:51:09.277Z"), whole(214536500, 214536590),
                 one_of("0", "S", "1")),
        {"user_id": "column_1", "time": "column_2", "item_id": "column_3", "type": "'click'"},
    ),
    "u.data": (
        csv_text([], whole(1, 90), whole(1, 150), whole(1, 5), SECONDS, delimiter="\t"),
        {"user_id": "column_1", "item_id": "column_2", "value": "column_3", "type": "'rating'",
         "time": "timestamp_seconds(column_4)"},
    ),
    "ratings.csv": (
        csv_text(["userId", "movieId", "rating", "timestamp"], whole(1, 90), whole(1, 99), one_of(0.5, 4), SECONDS),
        {"user_id": "userId", "item_id": "movieId", "value": "rating", "type": "'rating'",
         "time": "timestamp_seconds(timestamp)"},
    ),
    "lastfm.dat": (
        csv_text(["userID", "artistID", "weight", "day", "month", "listened_at"], whole(1, 90), whole(1, 99),
                 whole(1, 9999), whole(1, 28), whole(1, 12), MILLISECONDS, delimiter="\t"),
        {"user_id": "userID", "item_id": "artistID", "value": "weight", "time": "timestamp_millis(listened_at)",
         "type": "'view'"},
    ),
    "gowalla_checkins.txt": (
        csv_text([], whole(0, 90), day_of("2010-{month:02d}-{day:02d}T19:55:23Z"), one_of("30.2359091167", "30.2691"),
                 one_of("-97.7493953705", "-97.763395"), whole(22, 99), delimiter="\t"),
        {"user_id": "column_1", "time": "column_2", "item_id": "column_5", "type": "'visit'"},
    ),
    "orders.csv": (
        csv_text(["Order ID", "Order Date", "Customer ID", "Stock Code", "Quantity", "Unit Price"], whole(1, 10**6),
                 day_of("{month}/{day}/2016 8:05"), whole(1, 90), whole(1, 90), whole(1, 9), one_of(1.5, 2)),
        {"time": "to_timestamp(`Order Date`, 'M/d/yyyy H:mm')", "user_id": "`Customer ID`", "item_id": "`Stock Code`",
         "quantity": "Quantity", "unit_price": "`Unit Price`", "type": "'purchase'"},
    ),
    "german.csv": (
        csv_text(["customer", "product", "date", "action"], whole(1, 90), whole(1, 90),
                 day_of("{day:02d}.{month:02d}.2020"), one_of("view", "buy"), delimiter=";", quote='"'),
        {"time": "to_timestamp(date, 'dd.MM.yyyy')", "user_id": "customer", "item_id": "product", "type": "action"},
    ),
    "steam.csv": (
        csv_text([], whole(10**8, 10**8 + 90), one_of("Skyrim", "Fallout 4"), one_of("play", "purchase"),
                 one_of("1.5", "9.1"), one_of("0")),
        {"user_id": "column_1", "item_id": "column_2", "type": "column_3", "value": "column_4",
         "time": "cast(arrival as timestamp)"},
    ),
    "taobao.csv": (
        csv_text([], whole(1, 90), whole(1, 90), whole(1000, 1009), one_of("pv", "fav", "cart", "buy"),
                 whole(1511544070, 1512313448)),
        {"user_id": "column_1", "item_id": "column_2", "type": "column_4", "time": "timestamp_seconds(column_5)"},
    ),
    "amazon.jsonl": (
        json_lines(lambda random_, number: {
            "reviewerID": f"A{random_.randint(1, 50)}", "asin": f"B{random_.randint(1, 50):09d}",
            "overall": 4.0 + number % 2, "reviewText": "words " * 60,
            "unixReviewTime": 1355616000 + number * 86400, "helpful": [2, 3]}),
        {"user_id": "reviewerID", "item_id": "asin", "value": "overall", "type": "'rating'",
         "time": "timestamp_seconds(unixReviewTime)"},
    ),
    "ga4.json": (
        json_lines(ga4),
        {"time": "timestamp_micros(event_timestamp)", "type": "event_name", "user_id": "user_pseudo_id",
         "item_id": "entry.item_id", "quantity": "entry.quantity", "unit_price": "entry.price",
         "country": "geo.country", "platform": "device.category"},
    ),
    "segment.jsonl": (
        json_lines(segment),
        {"time": "timestamp", "event_id": "messageId", "user_id": "coalesce(userId, anonymousId)", "type": "event",
         "item_id": "coalesce(entry.product_id, properties.product_id)", "quantity": "entry.quantity",
         "unit_price": "coalesce(entry.price, properties.price)", "platform": "context.os.name"},
    ),
    "nulls.csv": (
        csv_text(["customer_id", "sku", "plays", "ts"], one_of("NULL", "7", "8", "9"), whole(1, 99), one_of("\\N", "3"),
                 SECONDS),
        {"user_id": "nullif(customer_id, 'NULL')", "item_id": "sku", "type": "'play'",
         "value": "try_cast(nullif(plays, '\\\\N') as double)", "time": "timestamp_seconds(ts)"},
    ),
}  # fmt: skip


def propose(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    proposal = mapping.propose_events(layout.look(path))
    source_file.text_of(proposal, "shop")  # the loader of sources takes it
    return proposal


def expressions(proposal):
    return {column: guess.expression for column, guess in proposal.columns.items()}


@pytest.mark.parametrize("name", CASES)
def test_public_schema_is_understood(tmp_path, name):
    content, expected = CASES[name]
    found = expressions(propose(tmp_path / name, content))
    assert found == expected


def test_arrays_become_one_event_per_entry(tmp_path):
    proposal = propose(tmp_path / "ga4.json", CASES["ga4.json"][0])
    assert (proposal.each, proposal.each_optional) == ("items", True)
    assert proposal.fields["items"] == "array<struct<item_id: string, price: double, quantity: bigint>>"


@pytest.mark.parametrize(
    ("suffix", "compression", "pack"),
    [("", "none", bytes), (".gz", "gzip", gzip.compress), (".zst", "zstd", zstandard.ZstdCompressor().compress)],
)
def test_compression_is_told_by_the_bytes(tmp_path, suffix, compression, pack):
    content = CASES["ratings.csv"][0].encode()
    proposal = propose(tmp_path / f"ratings.csv{suffix}", pack(content))
    assert proposal.layout.compression == compression
    assert expressions(proposal) == CASES["ratings.csv"][1]


@pytest.mark.parametrize(
    ("encoding", "written"),
    [("utf-8", "utf-8"), ("utf-8", "utf-8-sig"), ("cp1252", "latin-1"), ("utf-16", "utf-16"), ("cp1251", "cp1251")],
)
def test_character_set_is_told_by_the_bytes(tmp_path, encoding, written):
    word = "Привет, как дела, магазин" if written == "cp1251" else "Müller"
    content = csv_text(["user_id", "item_id", "ts", "word"], whole(1, 90), whole(1, 90), SECONDS, one_of(word, "b"),
                       delimiter=";")  # fmt: skip
    path = tmp_path / "events.csv"
    path.write_bytes(content.encode(written))
    sample = layout.look(path)
    assert sample.layout.encoding == encoding
    assert sample.layout.columns == ["user_id", "item_id", "ts", "word"]


def test_column_without_a_name_is_left_out(tmp_path):
    content = csv_text(["", "user_id", "item_id", "ts"], whole(1, 10**6), whole(1, 90), whole(1, 90), SECONDS)
    assert propose(tmp_path / "from_pandas.csv", content).extra == {}


def test_parquet_keeps_its_types(tmp_path):
    path = tmp_path / "events.parquet"
    times = pa.array(range(ROWS), pa.timestamp("s")).cast(pa.timestamp("us", "UTC"))
    users = pa.array([number % 7 for number in range(ROWS)], pa.int64())
    items = pa.array([f"i{number % 9}" for number in range(ROWS)])
    pq.write_table(pa.table({"user_id": users, "item_id": items, "at": times}), path)
    proposal = mapping.propose_events(layout.look(path))
    assert proposal.fields == {"user_id": "bigint", "item_id": "string", "at": "timestamp"}
    assert proposal.columns["time"].expression == "at"


def test_day_and_month_that_could_be_swapped_are_noted(tmp_path):
    content = csv_text(["user_id", "item_id", "date"], whole(1, 90), whole(1, 90), one_of("01/02/2020", "03/04/2020"))
    proposal = propose(tmp_path / "orders.csv", content)
    assert any("day and month" in note for note in proposal.notes)


def test_file_without_times_says_what_is_impossible(tmp_path):
    proposal = propose(tmp_path / "steam.csv", CASES["steam.csv"][0])
    assert mapping.NO_TIMES in proposal.notes


def test_few_dirty_records_do_not_change_the_mapping(tmp_path):
    dirty = "soon,u1,view,i1,\n1,2\n1430622004384,u2,view,i1,x\n" * 3
    content, expected = CASES["retailrocket.csv"]
    assert expressions(propose(tmp_path / "retailrocket.csv", content + dirty)) == expected


def test_single_time_in_another_format_is_left_to_the_report(tmp_path):
    content, expected = CASES["yoochoose-clicks.dat"]
    found = expressions(propose(tmp_path / "yoochoose-clicks.dat", content + "7,07.04.2014 10:51,214536500,0\n"))
    assert found == expected


def test_numbers_that_json_has_as_text_are_cast(tmp_path):
    users = {"uid": "u1", "sku": "i1"}, {"uid": "u2", "sku": "i2"}
    content = json_lines(lambda _, n: users[n % 2] | {"price": str(n / 2), "ts": str(1700000000 + n)})
    proposal = propose(tmp_path / "events.jsonl", content)
    assert proposal.columns["time"].expression == "timestamp_seconds(cast(ts as bigint))"
    assert proposal.columns["unit_price"].expression == "try_cast(price as double)"
    assert set(proposal.fields.values()) == {"string"}


@pytest.mark.parametrize("name", ["line items", "cart.items", "select", "`a`", "Zeilen\U0001f6d2"])
def test_array_of_any_name_gives_an_event_per_entry(tmp_path, name):
    content = json_lines(lambda _, n: {"user_id": f"u{n % 9}", name: [{"item_id": f"i{n % 7}", "price": n / 2}]})
    proposal = propose(tmp_path / "events.jsonl", content)
    found = expressions(proposal)
    assert (found["item_id"], found["unit_price"]) == ("entry.item_id", "entry.price")
    written = source.read("shop", "events", tomllib.loads(source_file.text_of(proposal, "shop")))
    assert written.known_fields["entry"] == "STRUCT<item_id: STRING, price: DOUBLE>"


def test_fields_that_no_expression_can_tell_apart_are_left_to_the_commoner(tmp_path):
    def record(_, n):
        found = {
            "user_id": f"u{n % 9}",
            "at": f"2024-01-{n % 28 + 1:02}",
            "item": {"item_id": f"i{n % 7}"},
            "": [{"item_id": "x"}],
        }
        if n % 10 == 0:
            found |= {"AT": [{"item_id": "x"}], "item": [{"item_id": "y"}, {"item_id": "z"}]}
        return found

    found = expressions(propose(tmp_path / "events.jsonl", json_lines(record)))
    assert (found["item_id"], found["time"]) == ("item.item_id", "at")


def test_items_of_two_types_in_a_file_are_texts(tmp_path):
    lines = pa.list_(pa.struct({"item_id": pa.string()}))
    columns = [[f"u{n % 9}" for n in range(ROWS)], list(range(ROWS))]
    columns.append(pa.array([[{"item_id": f"i{n % 9}"}] if n % 2 else [] for n in range(ROWS)], lines))
    found = expressions(propose(tmp_path / "events.parquet", parquet_of(columns, ["user_id", "item_id", "lines"])))
    assert found["item_id"] == "coalesce(entry.item_id, cast(item_id as string))"


def test_two_formats_of_times_are_both_read(tmp_path):
    content = csv_text(["user_id", "item_id", "at"], whole(1, 90), whole(1, 90),
                       one_of("2020-01-02T03:04:05Z", "2020/01/02 03:04:05"))  # fmt: skip
    text = propose(tmp_path / "events.csv", content).columns["time"].expression
    assert text.startswith("coalesce(") and "cast(at as timestamp)" in text
    assert "to_timestamp(at, 'yyyy/MM/dd HH:mm:ss')" in text


def test_sessions_stand_in_for_users(tmp_path):
    content = csv_text(["session_id", "product", "ts"], whole(1, 90), whole(1, 90), SECONDS)
    proposal = propose(tmp_path / "clicks.csv", content)
    assert proposal.columns["user_id"].expression == "session_id"
    assert "second visit" in proposal.notes[0]


REFUSED = {
    "movielens.dat": ("1::2::3::978300760\n" * 9, "separates fields by '::'"),
    "empty.csv": ("", "is empty"),
    "blank.csv": ("\n\n", "has no records"),
    "header.csv": ("user_id,item_id,time\n", "has a header and no record"),
    "array.json": ('[{"user_id": 1},\n{"user_id": 2}]\n', "no line that is a JSON object.*jq"),
    "twice.csv": ("user_id,item_id,User_ID\n1,2,3\n", "two columns 'user_id'"),
    "twice.parquet": (parquet_of([["u1"], ["i1"], ["u2"]], ["user_id", "item_id", "User_ID"]), "two columns 'user_id'"),
    "returns.csv": ("user_id,item_id\ru1,i1\r", "carriage returns"),
    "packed.csv": (gzip.compress(b"user_id,item_id\n"), r"packed by gzip.*ends in \.gz"),
    "archive.zip": (b"PK\x03\x04....", "is an archive"),
    "no_items.csv": (csv_text(["user_id", "ts"], whole(1, 9), SECONDS), "No field of .*no_items.csv has IDs of items"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_file_is_refused_with_a_remedy(tmp_path, name):
    content, sentence = REFUSED[name]
    with pytest.raises(TaskError, match=sentence):
        propose(tmp_path / name, content)


def test_catalogue_is_matched_by_the_ids_of_the_events(tmp_path):
    path = tmp_path / "movies.dat"
    lines = [f"{number}|Film, {number} (1999)|Adventure|x" for number in range(100, 400)]
    path.write_text("\n".join(lines), "utf-8")
    proposal = mapping.propose_items(layout.look(path), {"100", "101"})
    assert proposal.columns["item_id"].expression == "column_1"
    assert proposal.columns["name"].expression == "column_2"


def test_items_in_an_array_of_the_records_are_found(tmp_path):
    path = tmp_path / "orders.jsonl"
    path.write_text(
        json_lines(lambda _, n: {"order": n, "lines": [{"sku": f"i{n % 9}", "title": f"T{n % 9}"}] * (n % 3)})
    )
    proposal = mapping.propose_items(layout.look(path), {"i5"})
    assert expressions(proposal) == {"item_id": "entry.sku", "name": "entry.title"}
    written = source.read("shop", "items", tomllib.loads(source_file.text_of(proposal, "shop")))
    assert (written.each, written.each_optional) == ("lines", False)


@pytest.mark.parametrize("file", ["items.parquet", "items.jsonl"])
def test_words_that_are_fractions_become_text(tmp_path, file):
    rows_ = [{"item_id": number, "family": number / 2} for number in range(9)]
    columns = list(map(list, zip(*(each.values() for each in rows_), strict=True)))
    content = (
        parquet_of(columns, ["item_id", "family"]) if file.endswith("t") else json_lines(lambda _, n: rows_[n % 9])
    )
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    proposal = mapping.propose_items(layout.look(tmp_path / file), {"5"})
    assert expressions(proposal)["family"] == "cast(cast(family as decimal(38, 6)) as string)"
    assert proposal.fields["family"] == "double"


def test_genres_give_the_family(tmp_path):
    path = tmp_path / "movies.csv"
    path.write_text("movieId,title,genres\n" + "".join(f'{n},"Film, {n}",Drama|War\n' for n in range(99)), "utf-8")
    found = expressions(mapping.propose_items(layout.look(path), {"5"}))
    assert found == {"item_id": "movieId", "name": "title", "family": "split_part(genres, '|', 1)"}


def test_log_of_properties_becomes_columns(tmp_path):
    path = tmp_path / "item_properties.csv"
    path.write_text(csv_text(["timestamp", "itemid", "property", "value"], MILLISECONDS, whole(3, 99),
                             one_of("categoryid", "available"), whole(1, 50)), "utf-8")  # fmt: skip
    proposal = mapping.propose_items(layout.look(path), {str(number) for number in range(3, 99)})
    assert proposal.mode == "increments"
    found = expressions(proposal)
    assert found["item_id"] == "itemid" and found["family"] == "if(property = 'categoryid', value, null)"


def test_users_changes_are_named(tmp_path):
    path = tmp_path / "users.csv"
    path.write_text(csv_text(["customer_id", "changed_at", "event", "tier"], whole(1, 90), SECONDS,
                             one_of("subscribed", "upgraded", "cancelled"), one_of("a", "b")), "utf-8")  # fmt: skip
    found = expressions(mapping.propose_users(layout.look(path)))
    assert found["plan"] == "tier"
    assert found["change"] == (
        "case event when 'cancelled' then 'cancel' when 'subscribed' then 'subscribe' when 'upgraded' then 'change' end"
    )
