"""`make demo` on a machine without Java."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from tests.samples import five_months
from tools.sandbox import demo
from tools.sandbox.local_airflow import start

JAVA = """#!/bin/sh
echo "$@" >>{trace}
exit 127
"""


@pytest.fixture
def started_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program that is not Java wherever Spark looks for Java; return the file with its arguments."""
    home, trace = tmp_path / "no-java", tmp_path / "started-java"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "java").write_text(JAVA.format(trace=trace))
    (home / "bin" / "java").chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(home))
    monkeypatch.setenv("PATH", f"{home}/bin", prepend=":")
    monkeypatch.setenv("SPARK_CONF_DIR", str(home))  # else spark-env.sh names the Java of `make setup-spark`
    return trace


@pytest.mark.timeout(1200)
def test_demo_needs_no_java(
    started_java: Path,
    tmp_path: Path,
    make_home: Callable[[], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(demo, "start", functools.partial(start, home=make_home()))
    arguments = ["--lake", f"file://{tmp_path}/lake", "--sample", str(five_months(tmp_path))]
    monkeypatch.setattr(sys, "argv", ["demo", *arguments])
    with mock.patch.dict(os.environ):  # it sets variables for Airflow
        demo.main()
    shown = capsys.readouterr().out
    assert "build_interactions" in shown and "new for you" in shown, shown
    assert not started_java.exists(), started_java.read_text()
