"""`make demo CLOUD=gcp`: the hybrid pipeline on a lake on gs://, with Dataproc's API and Bigtable."""

import functools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import psutil
import pytest

from common.engines import arrow
from tests.samples import five_months
from tools.sandbox import demo, demo_gcp
from tools.sandbox.local_airflow import start


@pytest.mark.timeout(1800)
def test_demo_runs_on_parts_of_google_and_ends_them(
    fake_gcs: dict[str, str],  # skips without its program
    bigtable_emulator: dict[str, str],
    tmp_path: Path,
    make_home: Callable[[], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    monkeypatch.setattr(demo, "start", functools.partial(start, home=make_home()))
    monkeypatch.setattr(sys, "argv", ["demo_gcp", "--sample", str(five_months(tmp_path))])
    arrow.object_store.cache_clear()  # of the server of another test
    with mock.patch.dict(os.environ):  # it sets variables for Airflow
        demo_gcp.main()
    arrow.object_store.cache_clear()
    shown = capsys.readouterr().out
    assert "new for you" in shown, shown
    for pipeline, job in (("ingest-events", "ingest_events"), ("daily-recommendations", "build_interactions")):
        assert re.search(rf"tandem-{pipeline}-\w+ +│ DELETED", shown), shown
        assert re.search(rf"{job}-\w+-1 +│ DONE", shown), shown
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert not left
