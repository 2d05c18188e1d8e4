"""Overdue pipelines: each delay is reported once, also of a pipeline that never succeeded."""

from datetime import UTC, datetime, timedelta

import pytest
from tandem import overdue
from tandem.overdue import ReportOverdue

NOON = datetime(2011, 6, 1, 12, tzinfo=UTC)


class Notice:
    """Records the pipelines that are reported; fails for those that it cannot send."""

    def __init__(self):
        self.sent, self.broken = [], set()

    def send(self, event, details):
        if details["dag"] in self.broken:
            raise OSError("no mail today")
        assert event == f"{details['dag']} is overdue"
        self.sent.append(details["dag"])


class Hours:
    """The hourly runs of the task, with the successes of other pipelines and the Airflow variable."""

    def __init__(self, patch, **pipelines):
        self.notice, self.successes, self.variable, self.now = Notice(), {}, {}, NOON
        self.task = ReportOverdue(task_id="report", pipelines=pipelines, notice=self.notice)
        patch.setattr(overdue, "last_success", lambda pipeline, now: self.successes.get(pipeline))
        patch.setattr(overdue, "datetime", Clock(self))
        self.gauges = {}
        patch.setattr(overdue, "gauge", lambda name, value, tags: self.gauges.update({(name, tags["dag_id"]): value}))
        patch.setattr(overdue.Variable, "get", lambda name, default, deserialize_json: self.variable or default)
        patch.setattr(overdue.Variable, "set", lambda name, value, serialize_json: setattr(self, "variable", value))

    def reported(self, hours=1):
        """Let hours pass, run the task, and return the pipelines that it reports."""
        self.now += timedelta(hours=hours)
        self.notice.sent.clear()
        self.task.execute({"ti": self})
        return [*self.notice.sent]

    def xcom_push(self, key, value):
        self.reason = value


class Clock:
    """The module's datetime, at the time of the simulated hours."""

    fromisoformat = staticmethod(datetime.fromisoformat)

    def __init__(self, hours):
        self.hours = hours

    def now(self, zone):
        return self.hours.now


def test_each_delay_is_reported_once(monkeypatch):
    runs = Hours(monkeypatch, late=3, early=3)
    runs.successes = {"late": NOON, "early": NOON}
    assert runs.reported(2) == []
    runs.successes["early"] = runs.now
    assert runs.reported(2) == ["late"]
    assert runs.gauges == {
        ("tandem.seconds_since_success", "late"): 4 * 3600,
        ("tandem.seconds_since_success", "early"): 2 * 3600,
    }
    assert runs.reported(1) == []
    runs.successes = {"late": runs.now, "early": runs.now}
    assert runs.reported(3) == []
    assert runs.reported(1) == ["late", "early"], "each is late once more"


def test_pipeline_that_never_succeeded_counts_from_first_sight(monkeypatch):
    runs = Hours(monkeypatch, new=3)
    assert [runs.reported() for _ in range(6)] == [[], [], [], [], ["new"], []]
    runs.successes = {"new": runs.now}
    assert [runs.reported() for _ in range(5)] == [[], [], [], ["new"], []]


def test_notice_that_fails_is_repeated_and_no_other(monkeypatch):
    runs = Hours(monkeypatch, first=1, second=1)
    runs.successes = {"first": NOON, "second": NOON}
    runs.notice.broken = {"second"}
    with pytest.raises(OSError, match="no mail"):
        runs.reported(2)
    assert "no mail" in runs.reason
    runs.notice.broken = set()
    assert runs.reported() == ["second"]
