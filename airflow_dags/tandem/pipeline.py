"""A pipeline: an Airflow DAG that names jobs and their order; all else comes from the catalogue and the environment."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from airflow.sdk import DAG, Asset, BaseOperator
from airflow.sdk.definitions.mappedoperator import MappedOperator

from tandem import catalogue, environment
from tandem.catalogue import Job
from tandem.dag_errors import PipelineError, check_known
from tandem.operator import JobOperator, tell_failure
from tandem.parameters import check_parameters, declaration
from tandem.pin_release import TASK, PinRelease
from tandem.run_check import check_run
from tandem.runtimes.base import Cluster, ContainerRuntime
from tandem.watcher import Watcher

Task = BaseOperator | MappedOperator
SPARK_SETTINGS = ("conf", "driver_memory", "executor_memory", "executor_cores", "deploy_mode")


class Shared(NamedTuple):
    """A cluster of a pipeline, None where nothing opens; the file that describes it and the tasks that run on it."""

    described: str
    name: str
    cluster: Cluster | None
    tasks: list[Task]


class Pipeline:
    """The DAG of an app folder, named after it: `with Pipeline(__file__, schedule=…) as dag:`.

    `dag.spark("job", …)` and `dag.container("job", …)` return Airflow operators, which take `>>` with any others. A
    keyword is a role of the job (its value: the task that hands over) or the parameter that its job.toml calls
    mapped_by (its value: into how many tasks it is mapped). Settings come from `<task ID>.json` beside the DAG,
    {"parameters": {…}}, for Spark jobs the keys of [spark] in job.toml too; strings in it may be templates. Its list
    "at_trigger" names the parameters that the configuration of a run may give over that: Airflow params of the DAG.
    What a job writes to a dataset of the lake is an Airflow asset of the same name.

    README.md of the folder is the DAG's documentation on Airflow's page, its first paragraph the description. Other
    options are Airflow's: `tags=["team"]`, or `default_args={"owner": "team", "retries": 3}` over the environment's.

    A cluster is opened just before the first of its Spark tasks and closed right after the last one, if the
    environment's runtime has any. `cluster="cluster_large"` runs a task on what cluster_large.json describes, instead
    of cluster.json; `reopen=True` closes the cluster before whatever comes between, and opens another of the kind.
    """

    def __init__(
        self, file: str, *, schedule: Any, default_args: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        self.folder = Path(file).parent
        self.environment = environment.load(self.folder.parent / "environments")
        self.jobs: dict[str, Job] = {}
        self.released = False  # whether any task runs what a release names
        self.clusters: list[Shared] = []
        documentation = self.text("README.md", "Airflow shows it, and its first paragraph is the DAG's description")
        self.dag = DAG(
            self.folder.name,
            schedule=schedule,
            description=first_paragraph(documentation),
            doc_md=documentation,
            catchup=False,
            on_failure_callback=self.environment.failure_notice,
            max_active_runs=self.environment.max_active_runs,
            user_defined_macros={"code": self.environment.code, "tables": self.environment.tables},
            default_args={
                "retries": self.environment.retries,
                "retry_delay": self.environment.retry_delay,
                "on_failure_callback": tell_failure,
                "on_retry_callback": tell_failure,
                **(default_args or {}),
            },
            **options,
        )

    def __enter__(self) -> "Pipeline":
        self.dag.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.prepend_pin_release()
            self.put_clusters_around_spark()
        self.dag.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def container(self, job: str, *, task_id: str | None = None, **given: Any) -> Task:
        """A task that runs a Python job."""
        found = catalogue.find(self.catalogue, job, "python", self.dag.dag_id)
        settings = self.settings(found, task_id or job)
        return self.task(found, task_id or job, self.environment.container, settings, given, None)

    def spark(
        self, job: str, *, task_id: str | None = None, cluster: str = "cluster", reopen: bool = False, **given: Any
    ) -> Task:
        """A task that runs a Spark job, on the cluster that other tasks opened if it names the same one."""
        found = catalogue.find(self.catalogue, job, "spark", self.dag.dag_id)
        settings = self.settings(found, task_id or job)
        shared = self.shared(cluster, f"{cluster}_{task_id or job}" if reopen else cluster)
        task = self.task(found, task_id or job, self.environment.spark, settings, given, shared.cluster)
        shared.tasks.append(task)
        return task

    def shared(self, described: str, name: str) -> "Shared":
        """The cluster that was opened last of those that a file describes, another one if it is to have a new name."""
        for shared in reversed(self.clusters):
            if shared.described == described and name in (described, shared.name):
                return shared
        file = f"{described}{self.environment.spark.cluster_suffix}"
        opened = self.environment.spark.open_and_close(name, self.read(file), f"{self.dag.dag_id}/{file}")
        self.clusters.append(Shared(described, name, opened, []))
        return self.clusters[-1]

    @property
    def catalogue(self) -> Path:
        return self.folder.parent / "job_catalogue.json"

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the app folder."""
        settings: dict[str, Any] = json.loads(self.text(name, "{} if there is nothing to say"))
        return settings

    def text(self, name: str, why: str) -> str:
        """A file of the app folder."""
        file = self.folder / name
        if not file.exists():
            raise PipelineError(f"{self.folder.name} has no {name}; write it, {why}.")
        return file.read_text()

    def settings(self, job: Job, task_id: str) -> dict[str, Any]:
        """The settings of a task, checked against what its job takes."""
        where = f"{self.dag.dag_id}/{task_id}.json"
        settings = self.read(f"{task_id}.json")
        for key in settings:
            check_known(
                "setting", key, ["parameters", "at_trigger", *(SPARK_SETTINGS if job.engine == "spark" else [])], where
            )
        for name in (*settings.get("parameters", {}), *settings.get("at_trigger", [])):
            check_known("parameter", name, [each for each in job.parameters if each != job.mapped_by], where)
        return settings

    def task(
        self,
        job: Job,
        task_id: str,
        runtime: ContainerRuntime,
        settings: dict[str, Any],
        given: Mapping[str, Any],
        cluster: Cluster | None,
    ) -> Task:
        """The operator of a job, mapped or not, after its predecessors."""
        where = f"Task '{task_id}' of {self.dag.dag_id}"
        parameters, at_trigger = settings.pop("parameters", {}), settings.pop("at_trigger", [])
        roles = {name: value for name, value in given.items() if name != job.mapped_by}
        for role, predecessor in roles.items():
            check_known("role", role, [*job.roles, *([job.mapped_by] if job.mapped_by else [])], where)
            self.check_contract(where, job, role, predecessor)
        for role in job.roles:
            if role not in roles:
                raise PipelineError(f"{where} lacks the role '{role}'; say which task hands it over: {role}=TASK.")
        request = runtime.request(job, settings)
        self.released |= "fingerprint" in request
        options: dict[str, Any] = {
            "task_id": task_id,
            "job": job.name,
            "runtime": runtime,
            "lake": self.environment.lake,
            "predecessors": {role: predecessor.task_id for role, predecessor in roles.items()},
            "parameters": parameters,
            "described": job.parameters,
            "at_trigger": at_trigger,
            "deadline_seconds": job.resources.get("deadline_seconds", self.environment.deadline_seconds),
            "request": request,
            "cluster": cluster.open.output if cluster else None,
            "outlets": [Asset(dataset) for dataset in job.datasets],
        }
        task: Task
        if job.mapped_by:
            count = given.get(job.mapped_by)
            if not isinstance(count, int) or count < 1:
                raise PipelineError(
                    f"{where} is mapped by '{job.mapped_by}'; say into how many: {job.mapped_by}=NUMBER."
                )
            options["parameters"] = parameters = {**parameters, job.mapped_by: count}
            at_once = self.environment.max_active_tis_per_dagrun
            task = JobOperator.partial(max_active_tis_per_dagrun=at_once, **options).expand(part=list(range(count)))
        else:
            task = JobOperator(**options)
        self.check_values(where, job, parameters, at_trigger)
        self.declare(where, job, parameters, at_trigger)
        for predecessor in roles.values():
            predecessor >> task
        self.jobs[task_id] = job
        return task

    def check_values(self, where: str, job: Job, parameters: Mapping[str, Any], at_trigger: Sequence[str]) -> None:
        """Raise PipelineError for a value that the job would not take; templates are checked once rendered."""
        values = {name: value for name, value in parameters.items() if not is_template(value)}
        late = {*at_trigger, *parameters} - values.keys()
        check_parameters({name: job.parameters[name] for name in job.parameters if name not in late}, values, where)

    def declare(self, where: str, job: Job, parameters: Mapping[str, Any], at_trigger: Sequence[str]) -> None:
        """Make params of the DAG of what a run may give; PipelineError if two tasks differ in what a name means."""
        for name in at_trigger:
            default = parameters.get(name, job.parameters[name].get("default"))
            wanted = declaration(job.parameters[name], None if is_template(default) else default)
            there = self.dag.params.get_param(name) if name in self.dag.params else wanted
            if (there.schema, there.value) != (wanted.schema, wanted.value):
                raise PipelineError(
                    f"{where} lets a run give '{name}', of which another task takes other values or another default; "
                    "give both the same, or let a run give it to one of them only."
                )
            self.dag.params[name] = there

    def check_contract(self, where: str, job: Job, role: str, predecessor: Any) -> None:
        """Raise PipelineError unless the predecessor writes what the role reads: by its name, else by its contract."""
        known = self.jobs.get(getattr(predecessor, "task_id", ""))
        if known is None:
            raise PipelineError(
                f"{where} gets {predecessor!r} in the role '{role}'; only the task of a job hands over."
            )
        contracts = {name: entry["contract"] for name, entry in known.outputs.items() if "dataset" not in entry}
        fitting = [contracts[role]] if role in contracts else list(contracts.values())
        if sum(contract in job.roles[role] for contract in fitting) != 1:
            written = (
                ", ".join(f"{name} ({contract})" for name, contract in contracts.items()) or "nothing to hand over"
            )
            raise PipelineError(
                f"{where} reads {' or '.join(job.roles[role])} in the role '{role}', but '{predecessor.task_id}' "
                f"writes {written}; name a task that writes it, or bring the two jobs to one version of the contract."
            )

    def prepend_pin_release(self) -> None:
        """Let a run take its release first, if any of its tasks runs what a release names."""
        if self.released:
            first = [task for task in self.dag.tasks if not task.upstream_task_ids]
            PinRelease(task_id=TASK, check=check_run) >> first

    def put_clusters_around_spark(self) -> None:
        """Open each once all is done that all its tasks wait for, close it after the last, let no failure be hidden."""
        opened = [(shared.cluster, shared.tasks) for shared in self.clusters if shared.cluster]
        around = {task.task_id for cluster, _ in opened for task in cluster}
        last = [task for task in self.dag.tasks if not task.downstream_task_ids and task.task_id not in around]
        before = {task.task_id: self.upstream(task) - around for _, tasks in opened for task in tasks}
        for cluster, tasks in opened:
            self.wrap_with_cluster(cluster, tasks, before)
        if opened:
            own = {task.task_id for cluster, _ in opened for task in (cluster.open, cluster.ready)}
            watcher = Watcher(task_id="watcher", own={TASK, *self.jobs, *own})
            [*last, *(cluster.close for cluster, _ in opened)] >> watcher
            watcher.as_teardown(on_failure_fail_dagrun=True)

    def wrap_with_cluster(self, cluster: Cluster, tasks: list[Task], before: Mapping[str, set[str]]) -> None:
        """Open a cluster before its tasks and close it after them; `before` has what each Spark task waits for."""
        own = {task.task_id for task in tasks}
        common = set.intersection(*(before[task_id] for task_id in own))
        for task_id in common.difference(*(self.upstream(self.dag.get_task(task_id)) for task_id in common)):
            self.dag.get_task(task_id) >> cluster.open
        if cluster.ready is not cluster.open:
            cluster.open >> cluster.ready
        for task in tasks:
            if before[task.task_id].isdisjoint(own):
                cluster.ready >> task
            if not any(task.task_id in before[other] for other in own):
                task >> cluster.close
        cluster.close.as_teardown(setups=cluster.open)

    def upstream(self, task: Any) -> set[str]:
        """The IDs of all tasks that a task waits for."""
        ids: set[str] = task.get_flat_relative_ids(upstream=True)
        return ids


def is_template(value: Any) -> bool:
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def first_paragraph(document: str) -> str:
    """The first paragraph below the title of a document, in one line."""
    _, _, body = document.partition("\n")
    return " ".join(body.strip().partition("\n\n")[0].split())
