"""Notices of runs that succeeded: with the card if there is one, and none of runs without new input."""

import logging
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from tandem.failure_notice import FailureNotice

REPORTED = {"manifest": "file:///lake/m.json", "metrics": {"summary": "All is well."}}
RUN = {"dag_id": "d", "run_id": "manual__1:2"}


def context(skipped, result):
    """The context of a callback of a run, whose first task was skipped or not, and whose report has a result."""
    pulled = {("look_for_input", "skipped"): skipped, ("report_run", None): result}
    return {
        "ti": SimpleNamespace(
            **RUN,
            log_url="http://airflow:8080/path/dags/d/runs/r/tasks/t",
            xcom_pull=lambda task_ids, key=None: pulled[task_ids, key],
        ),
        "task": SimpleNamespace(render_template=lambda template, context: template),
        "dag": SimpleNamespace(user_defined_macros={"lake": "s3://bucket/lake/"}),
        "dag_run": SimpleNamespace(**RUN, run_after=datetime(2011, 6, 1, 2, tzinfo=UTC)),
    }


@pytest.mark.parametrize(
    ("skipped", "result", "lines"),
    [
        ("There is nothing to ingest.", None, []),
        (None, None, []),
        (
            None,
            REPORTED,
            [
                "summary: All is well.",
                "card: s3://bucket/lake/products/reports/cards/d/2011-06/2011-06-01T020000Z_manual__1~3a2.html",
                "page: http://airflow:8080/path/tandem/card/d/manual__1%3A2",
            ],
        ),
    ],
)
def test_success_has_summary_and_card_unless_there_was_nothing_to_do(caplog, skipped, result, lines):
    caplog.set_level(logging.INFO, "tandem.failure_notice")
    FailureNotice("laptop").on_success(context(skipped, result))
    expected = [] if skipped else ["\n".join(["laptop: d succeeded", "dag: d", "run: manual__1:2", *lines])]
    assert caplog.messages == expected
