"""Run tasks in this process, on its engine: `python conformance_tasks.py FILE`, or by common.engines.light.submit.

FILE has a job and its arguments per task. A lake may have its own sources, in its folder `sources`. A line of JSON is
printed for each task: exit code, and last line on stderr.
"""

import contextlib
import importlib
import io
import json
import sys
from functools import partial
from pathlib import Path

from common import sources
from common.handover import Task
from common.handover.runner import exit_code

JOBS = Path(__file__).parents[1] / "jobs"
SHIPPED = sources.folder


def run(job: str, task: Task) -> None:
    """Run a job, whose import may fail, too."""
    importlib.import_module(f"jobs.{job}.main").main(task)


def main() -> None:
    for job, arguments in json.loads(Path(sys.argv[1]).read_text()):
        own = Path(arguments[arguments.index("--lake") + 1].removeprefix("file://"), "sources")
        sources.folder = partial(Path, own) if own.exists() else SHIPPED
        with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
            code = exit_code(partial(run, job), JOBS / job, arguments)
        lines = said.getvalue().splitlines()
        print(json.dumps({"code": code, "last": lines[-1] if code and lines else ""}), flush=True)


if __name__ == "__main__":
    main()
