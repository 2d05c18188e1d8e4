"""Cards and the index page: contents, escaping, limits, size."""

import re
from datetime import timedelta
from html.parser import HTMLParser

import pytest

from common.reporting import card, lineage_view, page
from common.reporting.index_entry import entry_of
from common.reporting.lineage import Edge, Lineage, Node
from common.reporting.lineage_layout import layout
from tests import records

VOID = {"meta", "link", "br"}


class Reader(HTMLParser):
    """The elements, attributes and texts of a page, each text with the element that it is in."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append((self.open[-1], data))

    def values(self, name):
        return [value for each, value in self.attributes if each == name]

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(text for _, text in self.texts))


@pytest.fixture(scope="module")
def large():
    """The card of a run with 10,000 instances and odd names."""
    return Reader(page.render_card(records.large_run(), records.days(2), records.extras()))


def test_card_shows_odd_names_as_text(large):
    assert large.tags.count("script") == 1 and "onmouseover" not in dict(large.attributes)
    for name in records.ODD:
        assert ("bdi", name) in large.texts
    odd = [tag for tag, text in large.texts if records.RIGHT_TO_LEFT in text or records.OVERRIDE in text]
    assert set(odd) <= {"bdi", "text", "title"}  # of charts, and of the window


def test_pages_link_to_nothing_but_logs_cards_and_themselves(large):
    record = records.failed_run()
    record.url = record.tasks[0].links["page"] = "javascript:alert(1)"
    index = page.render_index([entry_of(record, "cards/one.html")])
    for read in (large, Reader(page.render_card(record, [], page.Extras())), Reader(index)):
        addresses = [*read.values("href"), *read.values("src")]
        assert [each for each in addresses if not each.startswith(("#", "https://", "data:,", "cards/"))] == []
        policy = next(value for value in read.values("content") if value.startswith("default-src"))
        assert "unsafe" not in policy and policy.startswith("default-src 'none';")


def test_card_of_ten_thousand_tasks_is_small():
    record = records.good_run()
    record.tasks += [records.task(f"extra_{number}", [], 5, 6, 7 + number) for number in range(10_000)]
    record.tasks[7].state = "failed"
    text = page.render_card(record, [], page.Extras())
    assert len(text.encode()) <= 1_000_000
    for name, shown in {"extra_0": True, "extra_9999": True, "extra_5": False}.items():
        assert (f"<bdi>{name}</bdi>" in text) == shown
    assert "400 of 10,007, those that did not succeed and the slowest" in text


def test_card_of_a_failed_run_begins_with_sentence_and_command():
    failure = records.failed_run().failure
    read = Reader(page.render_card(records.failed_run(), [], page.Extras()))
    assert "train_recommender failed, attempt 2, exit code 137" in read.text
    places = [read.texts.index(("bdi", failure.sentence)), read.texts.index(("code", failure.rerun))]
    assert places == sorted(places) and places[1] < read.texts.index(("a", "Tasks"))
    assert ("dd", "2 of 7") in read.texts and ("small", "succeeded, 1 failed") in read.texts
    assert "It published" not in read.text


def test_card_of_a_good_run_has_its_products_costs_and_choice():
    record = records.good_run()
    record.figures[3].value = 0.9  # the share of default rows
    read = Reader(page.render_card(record, records.days(10), records.extras()))
    assert "The run succeeded in 3 min 54 s" in read.text
    assert "It published recommendations and similar_items." in read.text
    assert "0.086 USD" in read.text  # .16 × .0526 + .64 × .0058 + .118 × .625
    assert "Style repeat: blend ships" in read.text and ("bdi", record.comparisons[0].choice) in read.texts
    assert "2 things to look at select_recommendations, default_share 0.9: Unusual: the median" in read.text
    assert "outside its limit" in read.text
    assert "its inputs have 3.1 GiB, more than 2 GiB (spark.auto.max_bytes)" in read.text
    assert ("span", "new") in read.texts  # an item that the user was not shown before
    assert {"main", "nav", "header", "footer", "caption"} <= set(read.tags)


def test_figures_begin_with_those_outside_their_limits_and_the_unusual():
    record = records.good_run()
    record.figures[3].value = 0.9
    record.figures[2].value = 0.5
    content = card.content(record, records.days(10))
    rows = content["guarded"]
    assert [row["figure"].name for row in rows[:3]] == ["default_share", "models.blend.ndcg", "rows"]
    assert (rows[0]["outside"], rows[1]["outside"], bool(rows[1]["unusual"])) == (True, False, True)
    assert [row["figure"].name for row in content["others"]] == []
    assert rows[2]["known"] == 10 and rows[2]["last"] == records.days(1)[0].figures[0].value


def test_task_waits_for_the_last_of_its_upstream_tasks():
    record = records.good_run()
    rows = {row["task"].task: row for row in card.content(record, [])["tasks"]}
    times = [rows["predict_recommendations"][name] for name in ("waiting", "starting", "working")]
    assert times == [1, 3, 26]
    assert rows["look_for_input"]["waiting"] == 0
    assert rows["train_recommender"]["memory_share"] == pytest.approx(1890 / 2048)


def test_attempts_of_a_task_are_bars_after_each_other():
    record = records.failed_run()
    training = next(task for task in record.tasks if task.task == "train_recommender")
    bars = card.task_bars(training, records.at(95))
    began = [(bar["phase"], (bar["begin"] - card.milliseconds(records.BEGAN)) / 1000) for bar in bars]
    assert began == [
        ("waiting", 95),
        ("starting", 96),
        ("failed or lost", 101),  # killed: it lasts until the next attempt begins
        ("starting", 160),
        ("failed or lost", 165),
    ]
    assert [bar["label"] for bar in bars if "label" in bar] == ["1 min 42 s"]


def test_lineage_has_sources_below_results_in_picture_and_tree():
    lineage = records.lineage()
    points, paths = layout(lineage)
    for edge, path in paths:
        assert points[edge.source][1] > points[edge.target][1]
        assert (path[0], path[-1]) == (points[edge.target], points[edge.source])
        assert [row for _, row in path] == list(range(path[0][1], path[-1][1] + 1))
    assert len(set(points.values())) == len(lineage.nodes)
    (tree,) = lineage_view.tree(lineage)
    named = re.findall(r"'id': '(\w+)'|Node\(id='(\w+)'", repr(tree))
    assert {one or other for one, other in named} == {node.id for node in lineage.nodes}


def test_lineage_with_a_circle_or_unknown_nodes_is_drawn():
    nodes = [Node(name, "task", name) for name in "ab"]
    drawn = lineage_view.content(Lineage(nodes, [Edge("a", "b"), Edge("b", "a"), Edge("c", "a")]))
    assert drawn and "<svg" in drawn["wide"]


def test_index_has_live_versions_last_successes_and_runs_newest_first():
    failed = entry_of(records.failed_run(), "cards/failed.html")
    good = [entry_of(records.good_run(day), f"cards/{day}.html") for day in (3, 1, 2, 4)]
    read = Reader(page.render_index([*good, failed]))
    cards = [value for value in read.values("href") if value.startswith("cards/")]
    versions = ["cards/1.html"] * 2  # of both products
    assert cards == [
        *versions,
        "cards/failed.html",
        "cards/failed.html",
        *(f"cards/{day}.html" for day in (1, 2, 3, 4)),
    ]
    assert "newest run failed" in read.text and "4 of 5" in read.text
    last = records.good_run(1).ended
    assert read.values("data-late-after") == [(last + timedelta(days=2)).isoformat()] * 2
    assert ("bdi", records.failed_run().failure.sentence) in read.texts


def test_index_of_nothing_is_a_page():
    assert "Runs, newest first" in Reader(page.render_index([])).text


def test_task_has_a_row_that_addresses_lead_to() -> None:
    run = records.good_run()
    assert page.render_card(run, [], page.Extras()).count(f'<tr id="task-{run.tasks[0].task}">') == 1
