"""The tracking plan: expressions of weights and targets are checked when it is loaded."""

from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import ArgumentError
from common.sources import tracking_plan

PLAN = """
[types.view]
description = "A film that was watched."
weight = "least(value / 600, 3)"
target = "value >= 4"
"""


def test_weights_and_targets_are_expressions_over_numbers(make_sources: Callable[..., Path]) -> None:
    make_sources({"tracking_plan.toml": PLAN})
    assert "least(value / 600, 3)" in tracking_plan.load().weight_sql


@pytest.mark.parametrize(
    ("counts", "verb"),
    [
        ({"purchase": 2, "play": 3, "view": 9}, "played"),  # views are no targets
        ({"view": 9, "play": 0}, "seen"),
        ({"zap": 5}, "bought"),  # a type that the plan does not know
        ({}, "bought"),
    ],
)
def test_reasons_say_what_most_people_did(make_sources: Callable[..., Path], counts: dict[str, int], verb: str) -> None:
    verbs = {"purchase": "bought", "play": "played", "view": "seen"}
    types = [
        f'[types.{name}]\ndescription = "An event."\nverb = "{verb}"\ntarget = {str(name != "view").lower()}'
        for name, verb in verbs.items()
    ]
    make_sources({"tracking_plan.toml": "\n".join(types)})
    assert tracking_plan.load().verb_of(counts) == verb


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("value / 600", "valu / 600", "weight of [types.view] of sources/tracking_plan.toml names 'valu'"),
        (
            "value >= 4",
            "sum(value) > 4",
            "target of [types.view] of sources/tracking_plan.toml calls the function 'sum'",
        ),
    ],
)
def test_wrong_expression_is_refused(make_sources: Callable[..., Path], before: str, after: str, sentence: str) -> None:
    make_sources({"tracking_plan.toml": PLAN.replace(before, after)})
    with pytest.raises(ArgumentError) as refused:
        tracking_plan.load()
    assert sentence in str(refused.value)
