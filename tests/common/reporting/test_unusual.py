"""The rule by which a figure is called unusual."""

from datetime import timedelta

import pytest
import records

from common.reporting import unusual
from common.reporting.record import Record

USUAL = [100.0, 101.0, 99.0, 102.0, 98.0, 100.0, 101.0, 99.0]  # median 100, median distance 1


@pytest.mark.parametrize(
    "value, former, marked",
    [
        (107.4, USUAL, False),
        (107.5, USUAL, True),  # 5 * 1.4826 * 1
        (92.5, USUAL, True),
        (1000.0, USUAL[:7], False),  # too few runs
        (101.0, [100.0] * 8, False),  # a change of 1 %
        (101.1, [100.0] * 8, True),
        (0.0, [0.0] * 8, False),
        (0.1, [0.0] * 8, True),
        (-1.2, [-1.0] * 8, True),
    ],
)
def test_value_far_from_former_ones_is_unusual(value: float, former: list[float], marked: bool) -> None:
    assert bool(unusual.judge(value, former)) is marked


def test_sentence_has_the_usual_range() -> None:
    sentence = "Unusual: the median of 8 earlier runs is 100, and 92.59 to 107.4 is usual."
    assert unusual.judge(150, USUAL) == sentence
    shares = [0.0, 0.001, 0.002] * 3
    assert unusual.judge(0.5, shares) == (
        "Unusual: the median of 9 earlier runs is 0.001, and 0 to 0.008413 is usual."  # never negative
    )


def changed(run: Record, **fields) -> Record:
    for name, value in fields.items():
        setattr(run, name, value)
    return run


def test_only_earlier_successful_runs_of_the_kind_count() -> None:
    run = records.good_run()
    task, name = run.figures[0].task, run.figures[0].name
    former = records.days(40)
    later = changed(records.good_run(1), run_after=run.run_after + timedelta(hours=1))
    others = [changed(records.good_run(3), kind="manual"), changed(records.good_run(4), state="failed"), later]
    values = unusual.former_values(run, [*others, *former])[task, name]
    assert values == [day.figures[0].value for day in reversed(former[:30])]
    assert unusual.find(run, former) == {}
    run.figures[0].value *= 2
    assert list(unusual.find(run, former)) == [(task, name)]
    assert unusual.find(run, former[:7]) == {}
