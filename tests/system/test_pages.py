"""Cards and the index page in a real Chromium: a good run, a failed one, 10,000 tasks with odd names, 3,000 runs."""

import json
import subprocess

import pytest

from common.reporting import page
from tests import records
from tools.sandbox.parts import ROOT

RUNS = 3_000


@pytest.fixture(scope="module")
def seen(browser, tmp_path_factory):
    """The findings of a browser about each page, by its name."""
    folder = tmp_path_factory.mktemp("pages")
    good = records.good_run()
    good.comparisons.append(records.churn())
    pages = {
        "good": page.render_card(good, records.days(30), records.extras()),
        "failed": page.render_card(records.failed_run(), records.days(30), page.Extras()),
        "large": page.render_card(records.large_run(), records.days(30), records.extras()),
        "index": page.render_index(records.entries(RUNS)),
    }
    files = []
    for name, text in pages.items():
        files.append(folder / f"{name}.html")
        files[-1].write_text(text, "utf-8")
    command = [browser, "-m", "tests.programs.look_at_pages", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_pages_ask_for_nothing_report_no_error_and_run_no_code_of_names(seen):
    for name, found in seen.items():
        assert (name, found["requests"], found["errors"], found["injected"]) == (name, [], [], 0)


def test_axe_has_no_findings(seen):
    assert [(name, finding) for name, found in seen.items() for finding in found["axe"]] == []


def test_pages_do_not_scroll_sideways(seen):
    widths = [(name, size, *pair) for name, found in seen.items() for size, pair in found["widths"].items()]
    assert [each for each in widths if each[2] > each[3]] == []


def test_keyboard_reaches_all_with_a_visible_focus(seen):
    for name, found in seen.items():
        stops = found["keyboard"]["stops"]
        assert [stop for stop in stops if not (stop["outlined"] and stop["seen"])] == [], name
        assert (stops[0]["text"], found["keyboard"]["skipped_to"]) == ("Skip to the content", "main")
        assert {"a", "button", "div.scroll"} <= {stop["name"] for stop in stops}


def test_paper_has_all_parts_on_white(seen):
    for found in seen.values():
        assert found["printed"] | {"bytes": 0} == {
            "hidden_parts": 0,
            "navigation": False,
            "width": 688,
            "paper": "rgb(255, 255, 255)",
            "bytes": 0,
        }
        assert found["printed"]["bytes"] > 10_000


def test_pages_show_all_rows_without_script(seen):
    assert all(found["without_script"] == {"hidden_rows": 0, "buttons": 0} for found in seen.values())


def table(found, caption):
    return next(each for each in found["tables"] if each["caption"].startswith(caption))


def test_tables_sort_by_numbers_and_names(seen):
    orders = table(seen["failed"], "Tasks")["orders"]
    names = sorted(task.task for task in records.tasks())
    assert [cell.startswith(name) for name, cell in zip(names, orders["Task, ascending"], strict=True)] == [True] * 7
    assert orders["Task, descending"] == orders["Task, ascending"][::-1]
    longest = orders["Working, descending"]
    assert longest[:3] == ["96.0", "74.0", "2.0"] and set(longest[3:]) == {""}
    assert orders["Working, ascending"] == longest[::-1]


def test_tables_filter_by_text_and_choice(seen):
    attempts = table(seen["large"], "Attempts")
    assert (len(attempts["rows"]), attempts["in_all"]) == (100, 117)  # a page, then all that the record keeps
    assert (len(attempts["filtered"]), attempts["says"]) == (40, "40 of 117 rows")
    assert attempts["choices"] == {"succeeded": 77}
    runs = table(seen["index"], "Runs")
    assert (len(runs["rows"]), runs["in_all"]) == (200, RUNS)
    failed = sum(entry.state == "failed" for entry in records.entries(RUNS))
    assert (len(runs["filtered"]), runs["says"]) == (failed, f"{failed} of {RUNS:,} rows")
