"""Records of runs from their documents, complete or not."""

from datetime import timedelta
from pathlib import Path

import pytest
from run_documents import BEGAN, RunFolder, task_of

from common import protocol
from common.reporting import record
from common.reporting.collect import SHOWN


@pytest.fixture
def run(lake: str) -> RunFolder:
    return RunFolder(lake)


def of_state(state: str, *upstream: str, **fields) -> dict:
    return {"job": "train", "engine": "python", "runtime": "process", "upstream": list(upstream)} | {
        "states": {"": state},
        "resources": {"cpu": "2", "memory": "2Gi"},
        "rates": [{"unit": "vCPU hours", "per_hour": 2.0, "price": 0.05}],
        **fields,
    }


def test_good_run_has_times_resources_and_costs(any_lake: str) -> None:
    run = RunFolder(any_lake)
    run.run(
        {
            "open_cluster": {"job": None, "states": {"": "success"}, "rates": [of_state("")["rates"][0]]},
            "train": of_state("success", "open_cluster", rates=[]),
            "write_product": of_state("success", "train", states={"0": "success", "1": "success"}),
            "publish": of_state("success", "write_product", rates=[]),
            "close_cluster": {"job": None, "states": {"": "success"}},
            "report_run": {"job": "report_run", "states": {"": "running"}},
        }
    )
    run.scheduler("open_cluster", 0, 60, job=None)
    run.scheduler("train", 60, 120, links={"pod": "https://pods.example.com"})
    run.manifest("train", 80, 115, parameters={"seed": 1}, warnings=["Few events.", "Few events."])
    for index in range(2):
        run.scheduler("write_product", 130, 130 + 36, index=index)
        run.manifest(
            "write_product", 140, 150, index, metrics={"table": "t", "written": 500_000, "write_units": 1_500_000}
        )
    run.manifest("publish", 160, 165, metrics={"table": "t", "expired": 100_000})
    run.scheduler("close_cluster", 170, 180, job=None)
    found = run.record()
    assert (found.state, found.kind, found.until, found.environment) == ("succeeded", "scheduled", "2026-11-26", "prod")
    assert found.began == BEGAN + timedelta(seconds=1) and found.ended == BEGAN + timedelta(seconds=180)
    assert [task.task for task in found.tasks] == ["open_cluster", "train", "write_product", "publish", "close_cluster"]
    train, write = task_of(found, "train"), task_of(found, "write_product")
    assert (train.upstream, train.parameters, train.fingerprint) == (["open_cluster"], {"seed": 1}, "4c0ffee")
    assert train.links == {"pod": "https://pods.example.com"}
    assert (train.began, train.job_began) == (BEGAN + timedelta(seconds=60), BEGAN + timedelta(seconds=80))
    assert (train.peak_memory_bytes, train.memory_limit_bytes) == (2**29, 2**31)
    assert (write.instances, write.states, write.rows, write.bytes) == (2, {"succeeded": 2}, 20, 2000)
    costs = {cost.task: cost.amount * cost.price for cost in found.costs if cost.unit == "vCPU hours"}
    assert costs == pytest.approx({"open_cluster": 180 / 3600 * 0.1, "write_product": 72 / 3600 * 0.1})
    writes = {cost.task: (cost.amount, cost.price) for cost in found.costs if cost.unit == "million write units"}
    assert writes == {"write_product": (3.0, 0.625), "publish": (0.3, 0.625)}
    assert [(each.task, each.sentence) for each in found.warnings] == [("train", "Few events.")]
    assert record.decode(record.encode(found)) == found


def test_attempts_on_two_engines_cost_what_their_runtimes_do(run: RunFolder) -> None:
    cluster = {"job": None, "states": {"": "success"}}
    rate = {"unit": "vCPU hours", "per_hour": 2.0, "price": 0.05}
    hours = {"unit": "hours of m6g.xlarge", "per_hour": 1.0, "price": 0.2}
    run.run(
        {
            "open_cluster": {**cluster, "rates": [hours], "opened": (BEGAN + timedelta(seconds=100)).isoformat()},
            "build": of_state("success", engine="spark", runtime=None, rates=[{**rate, "runtime": "process"}]),
            "close_cluster": cluster,
        }
    )
    run.scheduler("open_cluster", 0, 1, job=None)
    run.scheduler("build", 10, 46, state="failed", engine="light", engine_reason="its inputs have 1 KiB")
    run.scheduler("build", 100, 190, attempt=2, runtime="emr", engine="spark", engine_reason="memory ran out")
    run.manifest("build", 110, 180, attempt=2)
    run.scheduler("close_cluster", 195, 200, job=None)
    found = run.record()
    build = task_of(found, "build")
    assert (build.engine, build.engine_reason, build.runtime) == ("spark", "memory ran out", "emr")
    costs = {(cost.task, cost.unit): cost.amount for cost in found.costs}
    assert costs == {
        ("build", "vCPU hours"): 0.02,
        ("open_cluster", "hours of m6g.xlarge"): pytest.approx(100 / 3600, abs=1e-6),
    }


def test_first_failure_decides_and_is_shown_with_attempts_and_rerun(run: RunFolder) -> None:
    indices = {str(index): "success" for index in range(200)} | {"7": "failed", "120": "failed"}
    run.run(
        {
            "predict": of_state("", states=indices),
            "write": of_state("upstream_failed", "predict"),
            "watcher": {"job": None, "states": {"": "failed"}},
        }
    )
    for index in range(200):
        if index not in (7, 120):
            run.scheduler("predict", 10, 20 + index, index=index)
            run.manifest("predict", 12, 19 + index, index)
    run.scheduler("predict", 10, None, "running", index=120)
    run.failure("predict", 40, 50, 120, 2)
    run.scheduler("predict", 35, 51, "failed", 120, 2, exit_code=1, reason="a\nb", rerun="make replay RUN=1")
    run.scheduler("predict", 10, 60, "failed", 7, reason="The pod is gone.\nNobody knows why.", exit_code=None)
    run.scheduler("watcher", 300, 301, "failed", job=None, reason="These tasks failed: predict.")
    found = run.record()
    predict = task_of(found, "predict")
    assert (found.state, predict.state, task_of(found, "write").state) == ("failed", "failed", "upstream_failed")
    assert found.failure == record.Failure(
        "predict", "The cup is empty, expected tea.", 120, 2, 1, rerun="make replay RUN=1"
    )
    assert (predict.instances, predict.states) == (200, {"succeeded": 198, "failed": 2})
    assert [each.map_index for each in predict.shown[:3]] == [120, 7, 199]  # the first failure, then the slowest
    assert len(predict.shown) == SHOWN
    lost, failed = predict.shown[0].attempts
    assert (lost.state, lost.ended, failed.state, failed.exit_code) == ("lost", None, "failed", 1)
    assert predict.shown[1].attempts[0].sentence == "Nobody knows why."
    assert predict.rows == 1980


def test_run_by_hand_has_the_tasks_in_its_folder(run: RunFolder) -> None:
    run.manifest("train", 5, 10)
    run.failure("predict", 20, 30)
    (Path(run.attempt("write", None, 1).removeprefix("file://")) / "3f" / "rows").mkdir(parents=True)
    (Path(run.attempt("write", None, 1).removeprefix("file://")) / "3f" / "rows" / "part-0").write_text("killed")
    found = run.record()
    assert [(task.task, task.state) for task in found.tasks] == [
        ("train", "succeeded"),
        ("predict", "failed"),
        ("write", "failed"),
    ]
    assert (found.kind, found.run_after, found.environment) == ("by hand", BEGAN + timedelta(seconds=5), "")
    assert task_of(found, "write").shown[0].attempts[0].state == "lost"
    assert found.failure and found.failure.sentence == "The cup is empty, expected tea."


def test_retry_that_succeeded_leaves_no_failure(run: RunFolder) -> None:
    run.failure("train", 5, 10)
    run.manifest("train", 15, 20, attempt=2)
    found = run.record()
    assert (found.state, found.failure) == ("succeeded", None)
    assert [each.state for each in task_of(found, "train").shown[0].attempts] == ["failed", "succeeded"]


def test_attempt_whose_scheduler_died_counts_if_its_job_published(run: RunFolder) -> None:
    run.run({"train": of_state("success")})
    run.scheduler("train", 0, None, "running")
    run.manifest("train", 5, 30)
    run.scheduler("train", 20, 40, attempt=2, adopted=1)
    first, second = task_of(run.record(), "train").shown[0].attempts
    assert (first.state, first.ended, second.state) == ("succeeded", BEGAN + timedelta(seconds=30), "succeeded")
    assert task_of(run.record(), "train").ended == BEGAN + timedelta(seconds=40)


def test_unreadable_documents_are_counted(run: RunFolder) -> None:
    run.run({"train": of_state("success"), "odd": of_state("success")})
    run.write(protocol.manifest_uri(run.key("train")), b'{"task": {"task_id":')
    run.scheduler("train", 1, 2, exit_code="none")
    run.write(protocol.manifest_uri(run.key("odd")), b"[]")
    found = run.record()
    assert found.state == "succeeded"
    (warning,) = found.warnings
    assert warning.sentence.startswith("3 documents of the run cannot be read, intermediate/")
    run.write(protocol.run_uri(run.key(protocol.REPORT_TASK)), b"{}")
    assert run.record().warnings[0].sentence.startswith("4 documents")


def test_names_of_tasks_are_those_of_their_documents(run: RunFolder) -> None:
    run.failure("größe/ \udc80", 1, 2, sentence="Half a pair: \udc80.")
    found = run.record()
    assert found.failure and (found.failure.task, found.failure.sentence) == ("größe/ ?", "Half a pair: ?.")
    assert record.decode(record.encode(found)) == found
