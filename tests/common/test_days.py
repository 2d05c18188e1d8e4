"""The days of a dataset: none is lost, whoever notes some at the same time."""

from concurrent.futures import ThreadPoolExecutor

from common import days


def test_days_that_several_tasks_note_at_the_same_time_are_all_noted(any_lake):
    dataset = f"{any_lake}/curated/events"
    assert days.noted(dataset) == []
    wanted = [{f"2011-01-{number:02}", f"2011-02-{number:02}"} for number in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: days.note(dataset, each), wanted))
    assert days.noted(dataset) == sorted(set.union(*wanted))
    days.note(dataset, {"2010-12-31", "2011-01-01"})
    assert days.noted(dataset) == ["2010-12-31", *sorted(set.union(*wanted))]
