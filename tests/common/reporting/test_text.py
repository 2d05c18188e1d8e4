"""A run as plain text."""

from common.reporting import text
from tests import records


def test_summary_has_a_line_per_task_on_the_time_axis():
    lines = text.summary(records.good_run()).splitlines()
    assert lines[0] == "daily_recommendations succeeded in 3 min 54 s, as of 2026-11-26"
    bars = {line.split()[0]: line for line in lines[1:8]}
    assert list(bars) == [task.task for task in records.tasks()]
    ends = [line.rindex(text.WORKING) for line in bars.values()]
    assert ends == sorted(ends) and max(map(len, lines)) <= 100
    assert "░" in bars["build_interactions"] and bars["build_interactions"].endswith("1 min 32 s")
    assert "Published recommendations, version 20261126T0400: 118,000 rows." in lines


def test_summary_of_a_failed_run_has_its_sentence():
    record = records.failed_run()
    shown = text.summary(record)
    assert f"train_recommender failed: {record.failure.sentence}" in shown
    assert text.FAILED in shown and shown.count("not run") == 4


def test_summary_keeps_the_terminal_and_its_length():
    record = records.large_run()
    record.tasks += [records.task("\x1b[2Jclear\n", [], 1, 2, 3) for _ in range(200)]
    shown = text.summary(record)
    assert not {"\x1b", "\u202e"} & set(shown)
    assert "and 172 tasks more" in shown and "predict_recommendations × 10,000" in shown
