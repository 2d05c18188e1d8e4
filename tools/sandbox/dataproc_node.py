"""Dataproc on this machine, for tests and demonstrations: its gRPC API, and a node that really runs jobs and batches.

Prints the address of the API, and at its end, as JSON, the clusters that are gone and their jobs.

A cluster starts, runs its initialization actions, runs as many jobs at a time as its property
dataproc:dataproc.scheduler.max-concurrent-jobs says, and ends by a request or by idle_delete_ttl. A job is a
spark-submit of its bundle on gs://, but on this machine instead of YARN; its output goes to Dataproc's path on gs://.
A label `fault` of a cluster, one of FAULTS, injects a failure. The store is the one that STORAGE_EMULATOR_HOST names.
Airflow's environment has the messages of Dataproc, so it runs there.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from google.cloud import dataproc_v1 as api
from google.longrunning import operations_pb2
from google.protobuf import any_pb2, empty_pb2

from common.handover import storage
from tools.sandbox import servers, spark_process

FAULTS = {
    "answers_late": "the response to the request for the cluster comes seconds late",
    "never_ready": "the cluster never becomes ready",
    "dies": "the cluster fails soon after its first job began",
    "never_starts": "jobs stay pending",
    "delete_once": "the first request to delete the cluster is refused",
    "uncancellable": "a request to cancel a running job has no effect",
}
ACTIVE = ("PENDING", "RUNNING", "CANCEL_STARTED")
CONCURRENT = "dataproc:dataproc.scheduler.max-concurrent-jobs"
CONNECTOR = "com.google.cloud.hadoop.fs.gcs"
TICK_SECONDS = 0.1
LATE_SECONDS = 4


class Refused(Exception):
    """An error of the API: its code and a sentence."""

    def __init__(self, code: grpc.StatusCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass
class Opened:
    """A cluster, and the operation that creates it."""

    cluster: Any
    operation: Any
    began: float = field(default_factory=time.monotonic)
    ready: float | None = None
    used: float = field(default_factory=time.monotonic)
    ends: float | None = None  # once its end was requested
    refused: bool = False  # a request to delete it

    @property
    def state(self) -> str:
        return str(self.cluster.status.state.name)

    @property
    def fault(self) -> str:
        return str(self.cluster.labels.get("fault", ""))

    def change(self, state: str, detail: str = "") -> None:
        self.cluster.status = {"state": state, "detail": detail}


@dataclass
class Running:
    """A job or a batch, and its process once it runs."""

    message: Any
    change: Callable[[str, str], None]  # its state, and a remark
    process: "subprocess.Popen[bytes] | None" = None
    requested: float = field(default_factory=time.monotonic)
    began: float = 0
    ended: float = 0


class Node:
    """The services' methods, and the nodes of all clusters in one thread until `stop`."""

    def __init__(self, spark_submit: Path, seconds: float = 0.5) -> None:
        self.spark_submit, self.seconds = spark_submit, seconds  # the latter: a cluster takes to start, and to end
        self.lock = threading.RLock()
        self.clusters: dict[str, Opened] = {}
        self.jobs: dict[str, Running] = {}
        self.batches: dict[str, Running] = {}
        self.operations: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []  # of clusters that are gone
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.tick, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.stopped.set()
        self.thread.join()
        for running in (*self.jobs.values(), *self.batches.values()):
            if running.process:
                spark_process.end(running.process)

    def tick(self) -> None:
        while not self.stopped.wait(TICK_SECONDS):
            with self.lock:
                for name, opened in list(self.clusters.items()):
                    self.advance(name, opened)
                for batch in self.batches.values():
                    if batch.message.state.name == "PENDING":
                        self.begin(batch, batch.message.pyspark_batch, batch.message.runtime_config.properties)

    def advance(self, name: str, opened: Opened) -> None:
        """Advance a cluster by one tick."""
        now = time.monotonic()
        jobs = [job for job in self.jobs.values() if job.message.placement.cluster_name == name]
        active = [job for job in jobs if job.message.status.state.name in ACTIVE]
        if opened.ends and now > opened.ends:
            del self.clusters[name]
            self.history.append(account(name, opened, jobs))
        if opened.state in ("DELETING", "ERROR"):
            for job in active:
                finish(job, "ERROR", f"Cluster {name} is {opened.state}.")
        if opened.state == "CREATING" and now - opened.began > self.seconds and opened.fault != "never_ready":
            self.initialize(opened)
        if opened.state != "RUNNING":
            return
        running = [job for job in active if job.message.status.state.name != "PENDING"]
        if running and opened.fault == "dies" and now - running[0].began > 1:
            opened.change("ERROR", "The primary node was terminated")
            return
        limit = int(opened.cluster.config.software_config.properties.get(CONCURRENT, 2))
        pending = [job for job in active if job not in running and opened.fault != "never_starts"]
        for job in pending[: max(0, limit - len(running))]:
            self.begin(job, job.message.pyspark_job, job.message.pyspark_job.properties)
        opened.used = now if active else opened.used
        idle = opened.cluster.config.lifecycle_config.idle_delete_ttl
        if idle and now - opened.used > idle.total_seconds():
            self.close(opened)

    def initialize(self, opened: Opened) -> None:
        """Run a cluster's initialization actions; it is ready if they succeed."""
        for action in opened.cluster.config.initialization_actions:
            script = storage.read(action.executable_file)[0]
            if subprocess.run(["bash", "-s"], input=script, capture_output=True).returncode:
                detail = f"Initialization action failed: {action.executable_file}"
                opened.change("ERROR", detail)
                opened.operation.error.CopyFrom(rpc_error(grpc.StatusCode.INTERNAL, detail))
                opened.operation.done = True
                return
        opened.change("RUNNING")
        opened.ready = opened.used = time.monotonic()
        complete(opened.operation, api.Cluster.pb(opened.cluster))

    def close(self, opened: Opened) -> None:
        opened.change("DELETING")
        opened.ends = time.monotonic() + self.seconds

    def begin(self, running: Running, spark: Any, properties: Any) -> None:
        running.change("RUNNING", "")
        running.began = time.monotonic()
        threading.Thread(target=self.execute, args=[running, spark, dict(properties)], daemon=True).start()

    def execute(self, running: Running, spark: Any, properties: dict[str, str]) -> None:
        """Run a spark-submit to its end, upload its output, set the state."""
        with tempfile.TemporaryDirectory(prefix="dataproc-") as name:
            folder = Path(name)
            try:
                spark_process.unpack(list(spark.archive_uris), folder)
                command = [str(self.spark_submit), *options(properties), "--py-files", ",".join(spark.python_file_uris)]
                command += [spark.main_python_file_uri, *spark.args]
                running.process = spark_process.start(command, folder, driver_variables(properties))
                if self.state(running) != "RUNNING":  # cancelled concurrently
                    spark_process.end(running.process)
                code = running.process.wait()
                output = b"".join((folder / each).read_bytes() for each in ("stderr", "stdout"))
                remark = f"Job failed with message [exit code {code}]." if code else ""
                storage.write(f"{output_uri(running.message, spark)}.000000000", output)
            except Exception as error:
                code, remark = 1, f"Job failed with message [{error!r}]."
        with self.lock:
            if self.state(running) not in ACTIVE:
                return
            set_output(running.message, output_uri(running.message, spark))
            is_job = isinstance(running.message, api.Job)
            finish(running, ("ERROR" if is_job else "FAILED") if code else ("DONE" if is_job else "SUCCEEDED"), remark)

    def state(self, running: Running) -> str:
        message = running.message
        return str((message.status if isinstance(message, api.Job) else message).state.name)

    def operation(self, request: Any) -> Any:
        """A new operation in the place of a request."""
        parent = request.parent if hasattr(request, "parent") else f"projects/{request.project_id}"
        made = operations_pb2.Operation(name=f"{parent}/operations/{uuid.uuid4()}")
        self.operations[made.name] = made
        return made

    # The methods of the API: ClusterController

    def create_cluster(self, request: Any) -> Any:
        name = request.cluster.cluster_name
        if name in self.clusters:
            raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"Already exists: Cluster {name}")
        opened = Opened(request.cluster, self.operation(request))
        if opened.fault not in ("", *FAULTS):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"The label fault is {opened.fault}.")
        opened.cluster.cluster_uuid = str(uuid.uuid4())
        opened.change("CREATING")
        self.clusters[name] = opened
        return opened.operation

    def find_cluster(self, name: str) -> Opened:
        if name not in self.clusters:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Not found: Cluster {name}")
        return self.clusters[name]

    def get_cluster(self, request: Any) -> Any:
        return self.find_cluster(request.cluster_name).cluster

    def list_clusters(self, request: Any) -> Any:
        return api.ListClustersResponse(clusters=[opened.cluster for opened in self.clusters.values()])

    def delete_cluster(self, request: Any) -> Any:
        opened = self.find_cluster(request.cluster_name)
        if opened.fault == "delete_once" and not opened.refused:
            opened.refused = True
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "The cluster is being resized, try again later.")
        self.close(opened)
        operation = self.operation(request)
        complete(operation, empty_pb2.Empty())
        return operation

    # JobController

    def submit_job(self, request: Any) -> Any:
        job = request.job
        name, opened = job.reference.job_id, self.find_cluster(job.placement.cluster_name)
        if name in self.jobs:
            raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"Already exists: Job {name}")
        if opened.state not in ("RUNNING", "UPDATING"):
            sentence = f"Cluster {job.placement.cluster_name} is in state {opened.state} and cannot accept jobs"
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, sentence)

        def change(state: str, details: str) -> None:
            job.status = {"state": state, "details": details, "state_start_time": datetime.now(UTC)}

        change("PENDING", "")
        self.jobs[name] = Running(job, change)
        return job

    def find_job(self, name: str) -> Running:
        if name not in self.jobs:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Not found: Job {name}")
        return self.jobs[name]

    def get_job(self, request: Any) -> Any:
        return self.find_job(request.job_id).message

    def list_jobs(self, request: Any) -> Any:
        return api.ListJobsResponse(jobs=[job.message for job in self.jobs.values()])

    def cancel_job(self, request: Any) -> Any:
        job = self.find_job(request.job_id)
        opened = self.clusters.get(job.message.placement.cluster_name)
        if self.state(job) in ACTIVE and not (opened and opened.fault == "uncancellable"):
            finish(job, "CANCELLED", "Cancelled by user.")
        return job.message

    # BatchController, and the operations of all

    def create_batch(self, request: Any) -> Any:
        batch, name = request.batch, f"{request.parent}/batches/{request.batch_id}"
        if name in self.batches:
            raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"Already exists: {name}")

        def change(state: str, remark: str) -> None:
            batch.state, batch.state_message, batch.state_time = api.Batch.State[state], remark, datetime.now(UTC)

        operation = self.operation(request)
        batch.name, batch.operation = name, operation.name
        change("PENDING", "")
        self.batches[name] = Running(batch, change)
        return operation

    def get_batch(self, request: Any) -> Any:
        if request.name not in self.batches:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Not found: {request.name}")
        return self.batches[request.name].message

    def list_batches(self, request: Any) -> Any:
        return api.ListBatchesResponse(batches=[batch.message for batch in self.batches.values()])

    def get_operation(self, request: Any) -> Any:
        if request.name not in self.operations:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Not found: {request.name}")
        return self.operations[request.name]

    def cancel_operation(self, request: Any) -> Any:
        for batch in self.batches.values():
            if batch.message.operation == request.name and self.state(batch) in ACTIVE:
                finish(batch, "CANCELLED", "Cancelled by user.")
        return empty_pb2.Empty()


def finish(running: Running, state: str, remark: str) -> None:
    """Set the last state of a job or batch, and end its process."""
    running.change(state, remark)
    running.ended = time.monotonic()
    if running.process and running.process.poll() is None:
        spark_process.end(running.process)


def account(name: str, opened: Opened, jobs: list[Running]) -> dict[str, Any]:
    """A cluster that is gone and its jobs: states, and seconds."""
    ran = [
        {
            "name": job.message.reference.job_id,
            "state": job.message.status.state.name,
            "waited": job.began - job.requested,
            "took": job.ended - job.began,
        }
        for job in jobs
    ]
    waited = None if opened.ready is None else opened.ready - opened.began
    return {"name": name, "state": "DELETED", "waited": waited, "took": time.monotonic() - opened.began, "jobs": ran}


def complete(operation: Any, response: Any) -> None:
    packed = any_pb2.Any()
    packed.Pack(response)
    operation.response.CopyFrom(packed)
    operation.done = True


def rpc_error(code: grpc.StatusCode, sentence: str) -> Any:
    error = operations_pb2.Operation().error
    error.code, error.message = code.value[0], sentence
    return error


def output_uri(message: Any, spark: Any) -> str:
    """The prefix of the URIs of a driver's output, in the bucket of its code: a staging bucket costs an account."""
    bucket = "/".join(spark.main_python_file_uri.split("/")[:3])
    folder = f"{bucket}/google-cloud-dataproc-metainfo"
    if isinstance(message, api.Job):
        return f"{folder}/{message.placement.cluster_name}/jobs/{message.reference.job_id}/driveroutput"
    return f"{folder}/batches/{message.name.rpartition('/')[2]}/driveroutput"


def set_output(message: Any, uri: str) -> None:
    if isinstance(message, api.Job):
        message.driver_output_resource_uri = uri
    else:
        message.runtime_info = {"output_uri": uri}


def options(properties: dict[str, str]) -> list[str]:
    """The options of a job's spark-submit on this machine, with the store of the environment variables."""
    settings = {
        **spark_process.QUICK,
        "spark.hadoop.fs.gs.impl": f"{CONNECTOR}.GoogleHadoopFileSystem",
        "spark.hadoop.fs.AbstractFileSystem.gs.impl": f"{CONNECTOR}.GoogleHadoopFS",
        "spark.hadoop.fs.gs.storage.root.url": os.environ.get("STORAGE_EMULATOR_HOST", ""),
        "spark.hadoop.fs.gs.auth.service.account.enable": "false",
        "spark.hadoop.fs.gs.auth.null.enable": "true",
        **properties,
        "spark.submit.deployMode": "client",
    }
    conf = [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
    return ["--master", "local[2]", *conf]


def driver_variables(properties: dict[str, str]) -> dict[str, str]:
    """The environment variables that properties give a driver, on YARN or in a batch."""
    prefix = re.compile(r"spark\.(?:yarn\.appMasterEnv|dataproc\.driverEnv)\.(\w+)")
    return {found[1]: value for name, value in properties.items() if (found := prefix.fullmatch(name))}


def handlers(node: Node) -> Iterator[Any]:
    """Yield the handlers of the services."""
    services = {
        "ClusterController": ["CreateCluster", "GetCluster", "ListClusters", "DeleteCluster"],
        "JobController": ["SubmitJob", "GetJob", "ListJobs", "CancelJob"],
        "BatchController": ["CreateBatch", "GetBatch", "ListBatches"],
    }
    for service, methods in services.items():
        known = {name: handler(node, name, getattr(api, f"{name}Request").deserialize) for name in methods}
        yield grpc.method_handlers_generic_handler(f"google.cloud.dataproc.v1.{service}", known)
    known = {
        name: handler(node, name, getattr(operations_pb2, f"{name}Request").FromString)
        for name in ("GetOperation", "CancelOperation")
    }
    yield grpc.method_handlers_generic_handler("google.longrunning.Operations", known)


def handler(node: Node, name: str, deserialize: Callable[[bytes], Any]) -> Any:
    """The handler of a method of the API by the node's method of that name in Python's spelling."""
    method = getattr(node, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())

    def answer(request: Any, context: grpc.ServicerContext) -> bytes:
        try:
            with node.lock:
                answered = method(request)
                message = type(answered).pb(answered) if hasattr(type(answered), "pb") else answered
                content: bytes = message.SerializeToString()
        except Refused as refused:
            context.abort(refused.code, str(refused))
        if name == "CreateCluster" and request.cluster.labels.get("fault") == "answers_late":
            time.sleep(LATE_SECONDS)
        return content

    return grpc.unary_unary_rpc_method_handler(answer, deserialize, lambda content: content)


@contextlib.contextmanager
def serve(spark_submit: Path, port: int = 0) -> Iterator[tuple[str, Node]]:
    """Serve Dataproc's API on a port of this machine (0: any) and run its node during this block."""
    node = Node(spark_submit)
    server = grpc.server(ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers(tuple(handlers(node)))
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{bound}", node
    finally:
        server.stop(None)
        node.stop()


def main() -> None:
    faults = "; ".join(f"{name}: {text}" for name, text in FAULTS.items())
    parser = argparse.ArgumentParser(description=__doc__, epilog=f"Faults: {faults}.")
    parser.add_argument("--port", type=int, default=0, metavar="NUMBER", help="a free port if absent")
    program = spark_process.ROOT / ".venv" / "bin" / "spark-submit"
    parser.add_argument("--spark-submit", type=Path, default=program, metavar="PROGRAM", help="runs jobs and batches")
    arguments = parser.parse_args()
    ended = servers.ended_by_signal()
    with serve(arguments.spark_submit, arguments.port) as (endpoint, node):
        print(endpoint, flush=True)
        ended.wait()
    print(json.dumps(node.history))


if __name__ == "__main__":
    main()
