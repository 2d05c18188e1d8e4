"""From a file to a source's folder, the tracking plan, the report and its page."""

import io
import json
import re
import tomllib
from html.parser import HTMLParser

import pytest
from rich.console import Console

from common.errors import TaskError
from common.sources import source, tracking_plan
from tools.adopt import adopt, page, plan, terminal

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture
def shop(tmp_path, own_sources):
    """Return a function that adopts a CSV of events, given as lines, and returns the report and the printed text."""

    def adopt_lines(lines, name="shop", force=False, **others):
        files = {"events": tmp_path / "clicks.csv"}
        files["events"].write_text("\n".join(lines) + "\n", "utf-8")
        for kind, content in others.items():
            files[kind] = tmp_path / f"{kind}.csv"
            files[kind].write_text("\n".join(content) + "\n", "utf-8")
        output = Console(file=io.StringIO(), width=200)
        adopted = adopt.adopt(files, name, output, force)
        terminal.show(adopted.report, output)
        return adopted.report, output.file.getvalue()

    return adopt_lines


def clicks(count=400, users=40, day=lambda number: number % 28 + 1, item=lambda number: f"i{number % 50}"):
    """Return lines of events, of which each user has some on several days."""
    lines = ["user_id,item_id,event,event_time,note"]
    for number in range(count):
        kind = "purchase" if number % 10 == 0 else "view"
        time = f"2024-0{number % 3 + 1}-{day(number):02d}T10:{number % 60:02d}:00Z"
        lines.append(f"u{number % users},{item(number)},{kind},{time},n{number}")
    return lines


def sentences(report):
    return " ".join(finding.sentence for finding in report.found)


def test_files_of_a_source_are_written_and_load(shop, own_sources):
    items = ["item_id,title", *(f"i{number},Item {number}" for number in range(50))]
    users = ["user_id,changed_at,event,plan", "u1,2024-01-01,start,gold", "u2,2024-01-02,cancelled,gold"]
    report, printed = shop(clicks(), items=items, users=users)
    events = source.read("shop", "events", tomllib.loads((own_sources / "shop" / "events.toml").read_text()))
    assert events.columns["time"] == "event_time"
    assert {path.name for path in (own_sources / "shop").iterdir()} == {"events.toml", "items.toml", "users.toml"}
    assert (report.records, report.events, report.users, report.items) == (400, 400, 40, 50)
    assert report.others == {"items": (50, {}), "users": (2, {})}
    assert "event_time by its name" not in printed and "ISO 8601" in printed


def test_existing_source_is_kept_and_run(shop, own_sources):
    shop(clicks())
    path = own_sources / "shop" / "events.toml"
    mine = path.read_text().replace('"item_id"', "\"concat('x', item_id)\"")
    path.write_text(mine)
    _, printed = shop(clicks())
    assert path.read_text() == mine
    assert "sources/shop/events.toml exists and stays as it is; FORCE=1 replaces it." in printed
    assert "concat('x', item_id)" in printed
    shop(clicks(), force=True)
    assert "concat" not in path.read_text()


def test_types_that_the_plan_lacks_are_added(shop, own_sources):
    report, _ = shop(clicks())
    text = (own_sources / "tracking_plan.toml").read_text()
    assert text.startswith("# The team's comment.\n[types.purchase]")
    types = tracking_plan.load().types
    assert (types["view"].weight, types["view"].target) == (0.2, False)  # the plan's purchase is the target
    assert types["purchase"].weight == "quantity"
    assert {row.name: row.planned.weight for row in report.types} == {"view": 0.2, "purchase": "quantity"}
    shop(clicks())
    assert (own_sources / "tracking_plan.toml").read_text() == text


def test_records_that_are_not_mapped_have_reason_line_and_content(shop):
    lines = clicks()
    lines[5] = "u1,i1,view,yesterday,n"
    lines[7] = "u1,i1"
    lines[9] = lines[0]
    lines[11] = "u1,i1,view,2999-01-01T00:00:00Z,n"
    report, printed = shop(lines)
    assert {reason: (count, examples[0]) for reason, count, examples in report.reasons} == {
        "bad time": (1, (6, "u1,i1,view,yesterday,n")),
        "another number of fields than the header": (1, (8, "u1,i1")),
        "header again": (1, (10, lines[0])),
        "time after the arrival": (1, (12, lines[11])),
    }
    assert report.events == 396
    assert "yesterday" in printed


def test_fields_of_json_with_another_type_are_refused(tmp_path, own_sources):
    records = [{"user_id": n % 9, "item_id": f"i{n % 7}", "ts": 1700000000 + n, "price": n / 2} for n in range(100)]
    records[3]["price"] = {"amount": 1}
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + "{oops\n")
    adopted = adopt.adopt({"events": tmp_path / "events.jsonl"}, "shop", Console(file=io.StringIO()))
    assert {(reason, examples[0][0]) for reason, _, examples in adopted.report.reasons} == {
        ("bad price", 4),
        ("not a JSON object", 101),
    }


FINDINGS = {
    "one user has a twentieth": (
        ["user_id,item_id,event_time", *(f"{'bot' if n % 4 == 0 else f'u{n}'},i{n % 9},2024-01-{n % 28 + 1:02d}"
                                         for n in range(400))],
        "The user 'bot' has 100 events, 25.0% of all",
    ),
    "nobody returns": (["session_id,product_id,ts", *(f"s{n},p{n % 9},{1700000000 + n * 7000}" for n in range(400))],
                       "0 of 400 users have events on a second day"),
    "future": ([*clicks(), *["u1,i1,view,2999-01-01T00:00:00Z,n"] * 3], "3 records have times in the future"),
    "constant": ([line + (",de" if number else ",country") for number, line in enumerate(clicks())],
                 "country has the same value in every event"),
    "short history": (["user_id,item_id,ts", *(f"u{n % 40},i{n % 9},{1700000000 + n * 99}" for n in range(400))],
                      "The events span 1 days"),
    "repeated": ([*clicks(), *clicks()[1:]], "400 events (50.0%) agree with another"),
    "spreadsheet": (clicks(item=lambda number: "1.23E+12" if number % 3 else f"7{number % 90:04d}"),
                    "1 of item_id are like 1.2E+12"),
    "floats": (clicks(item=lambda number: f"{number % 90}.0"), "item_id ends in '.0'"),
    "lost zeros": (clicks(item=lambda number: str(number * 2512345 % 10**9).lstrip("0")), "drop leading zeros"),
    "no user": ([line.replace("u0,", ",") for line in clicks(users=5)], "80 events (20.0%) have no user"),
}  # fmt: skip


@pytest.mark.parametrize("name", FINDINGS)
def test_suspicion_is_reported(shop, name):
    lines, sentence = FINDINGS[name]
    report, printed = shop(lines)
    assert sentence in sentences(report)
    assert sentence in " ".join(printed.split())


def test_good_data_raises_no_suspicion_of_problems(shop):
    report, _ = shop(clicks(count=3000, users=300))
    assert [finding for finding in report.found if finding.level == "problem"] == []


def test_wrong_unit_of_an_edited_source_is_seen(shop, own_sources):
    lines = ["user_id,item_id,ts", *(f"u{n % 40},i{n % 9},{1700000000 + n * 7000}" for n in range(400))]
    shop(lines)
    path = own_sources / "shop" / "events.toml"
    path.write_text(path.read_text().replace("timestamp_seconds", "timestamp_millis"))
    report, _ = shop(lines)
    assert "400 times are before 1975, as if seconds were read as milliseconds" in sentences(report)


def test_repeated_event_ids_are_counted(shop):
    lines = ["message_id,user_id,item_id,ts", *(f"m{n},u{n % 9},i{n % 7},{1700000000 + n * 7000}" for n in range(300))]
    shop(lines)
    report, _ = shop([*lines, *lines[1:4]])
    assert "3 records have the event ID and day of another" in sentences(report)


def test_catalogue_with_other_zeros_is_seen(shop):
    lines = clicks(item=lambda number: str(number % 50 + 1))
    report, _ = shop(lines, items=["item_id,title", *(f"{number + 1:05d},Item {number}" for number in range(50))])
    assert "50 items of the events are in the catalogue with another number of leading zeros" in sentences(report)


@pytest.mark.parametrize("name", ["My Shop", "../up", "", "1st"])
def test_name_that_is_not_a_folder_is_refused(tmp_path, own_sources, name):
    with pytest.raises(TaskError, match="NAME is"):
        adopt.adopt({"events": tmp_path / "any.csv"}, name, Console(file=io.StringIO()))


class Page(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs


def test_page_shows_the_report_and_escapes_the_data(shop, tmp_path):
    lines = clicks()
    lines += [f"u1,i1,{HOSTILE},2024-01-01T00:00:00Z,n", f"u1,i1,view,{HOSTILE},n"]
    page.write(shop(lines)[0], tmp_path / "pages" / "shop.html")
    text = (tmp_path / "pages" / "shop.html").read_text("utf-8")
    content = Page(text)
    assert "script" not in content.tags and HOSTILE not in text
    assert text.count("&lt;script&gt;") >= 2  # as a type and as an example
    assert text.count("<svg") == 3
    assert not [value for name, value in content.attributes if name in ("src", "href", "onload", "onclick")]
    assert not re.search(r"url\(|@import", text)
    assert ("name", "viewport") in content.attributes and "prefers-color-scheme: dark" in text
    assert "bad time" in text
    assert len(text) < 1 << 20


COUNTS = {
    "purchase beats rating": ({"view": 9, "rating": 5, "buy": 2}, {"buy": True, "rating": False, "view": False}),
    "play beats view": ({"view": 9, "song_play": 5}, {"song_play": True, "view": False}),
    "view alone": ({"page_view": 9, "view_item": 5}, {"view_item": True, "page_view": False}),
    "unknown words": ({"a": 9, "b": 2}, {"a": True, "b": False}),
}


@pytest.mark.parametrize("name", COUNTS)
def test_strongest_type_becomes_the_target(name):
    counts, targets = COUNTS[name]
    assert {each.name: each.target for each in plan.additions(counts, [], [], {})} == targets


def test_plan_keeps_its_own_target():
    (added,) = plan.additions({"purchase": 5, "order": 3}, ["purchase"], ["purchase"], {})
    assert (added.name, added.target) == ("order", False)


def test_ratings_count_from_the_middle_of_their_scale():
    (added,) = plan.additions({"rating": 9}, [], [], {"rating": (0.5, 5.0)})
    assert (added.weight, added.target) == ("value - 2.5", "value >= 4")


def test_refund_reverses_the_purchase():
    added = {each.name: each for each in plan.additions({"order": 9, "refund": 1}, [], [], {})}
    assert added["refund"].reverses == "order"


def test_type_with_quotes_is_added(own_sources, shop):
    name = "it's \\ odd"
    shop([line.replace("view", name) for line in clicks()])
    assert name in tracking_plan.load().types
