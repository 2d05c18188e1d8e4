"""Attempts of Spark jobs that a test submits to a runtime directly, without Airflow around them."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import factories
from tandem import catalogue

DIRECT = {  # of jobs whose first attempt takes longer than the second
    "sleeps": "import time; time.sleep(0 if task.attempt > 1 else 60)",
    "waits": "import time\n"
    "    while task.attempt == 1 and 'manifest' not in str(storage.files(task.key)): time.sleep(0.1)",
    "quick": "pass",
}


def submitter(workshop: Any, runtime: Any) -> Callable[..., Any]:
    """Return a function that submits an attempt of a job, as a task of its name unless another is given."""
    release = json.loads(workshop.release)

    def submit(job: str, number: int, **names: str) -> Any:
        found = catalogue.find(workshop.dags / "job_catalogue.json", job, "spark", "here")
        request = {**runtime.request(found, {}), "fingerprint": release[job]}
        names = {"task_id": job, **names}
        return runtime.submit(factories.attempt(job, workshop.uri, number=number, request=request, **names))

    return submit


def cancelled_while_watched(runtime: Any, handle: Any) -> Any:
    """Return the outcome of an attempt that is cancelled while another thread watches it."""
    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(runtime.watch, handle)
        runtime.cancel(handle)
        return watched.result()
