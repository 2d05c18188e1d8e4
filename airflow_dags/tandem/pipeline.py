"""A pipeline: an Airflow DAG that names jobs and their order; the rest comes from the catalogue and the environment."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from airflow.sdk import DAG, Asset, BaseOperator
from airflow.sdk.definitions.mappedoperator import MappedOperator

from tandem import catalogue, environment, look_for_input, pin_release, prices, watcher
from tandem.catalogue import Job
from tandem.dag_errors import PipelineError, check_known
from tandem.engine_choice import LIGHT, SPARK, Auto, Choice, Sharing
from tandem.environment import AUTO, CLUSTER, CONTAINER
from tandem.look_for_input import LookForInput
from tandem.operator import PRODUCTS, JobOperator, log_failure
from tandem.parameters import airflow_param, check_parameters
from tandem.pin_release import PinRelease
from tandem.protocol import REPORT_TASK
from tandem.report_run import ReportRun
from tandem.run_kind import publishes, until
from tandem.runtimes.base import Cluster, Runtime, SparkRuntime
from tandem.watcher import Watcher

Task = BaseOperator | MappedOperator
SPARK_SETTINGS = ("conf", "driver_memory", "executor_memory", "executor_cores", "deploy_mode", "runtime")


class SharedCluster(NamedTuple):
    """A cluster of a pipeline, the name of its file, and the tasks that run on it."""

    file: str  # without suffix
    name: str
    operators: Cluster | None  # None if there is nothing to open
    tasks: list[Task]


class Place(NamedTuple):
    """The runtime of a task, its cluster, its engine if that is known, and the container that a run may choose."""

    runtime: Runtime
    cluster: Cluster | None = None
    choice: Choice | None = None
    container: Runtime | None = None

    def auto(self, job: Job, max_bytes: float) -> Auto | None:
        """The choice that each run makes, None if it makes none."""
        if self.container is None:
            return None
        openers = [self.cluster.open.task_id, self.cluster.ready.task_id] if self.cluster else []
        return Auto(self.container, max_bytes, job.inputs, tuple(dict.fromkeys(openers)))


class Pipeline:
    """The DAG of an app folder, named after it: `with Pipeline(__file__) as dag:`.

    `dag.spark("job", …)` and `dag.container("job", …)` return Airflow operators, which you can combine with others by
    `>>`. A keyword is a role of the job (its value: the task that hands over) or the parameter that its job.toml calls
    mapped_by (its value: the number of mapped tasks). Settings come from `<task ID>.json` next to the DAG,
    {"parameters": {…}}, for Spark jobs also the keys of [spark] in job.toml; strings in it may be templates. Its list
    "at_trigger" names the parameters that the configuration of a run may override: Airflow params of the DAG. A dataset
    of the lake that a job writes is an Airflow asset of the same name.

    The environment has the schedule, in its table [pipelines.<name>]; without one, only a person starts the pipeline.
    README.md of the folder is the DAG's documentation on Airflow's page, its first paragraph the description. Other
    options are Airflow's: `tags=["team"]`, or `default_args={"owner": "team", "retries": 3}`, which override the
    environment's.

    The environment decides where Spark jobs run: in containers, on its Spark runtime, or by the size of their inputs;
    "runtime" in `<task ID>.json` overrides it. If the Spark runtime has clusters, a cluster is opened just before the
    first of its Spark tasks and closed right after the last one. `cluster="cluster_large"` runs a task on the cluster
    in cluster_large.json instead of cluster.json; `reopen=True` closes the cluster before the tasks in between, and
    opens another one like it.
    """

    def __init__(self, file: str, *, default_args: Mapping[str, Any] | None = None, **options: Any) -> None:
        self.folder = Path(file).parent
        self.environment = environment.load(self.folder.parent / "environments")
        self.jobs: dict[str, Job] = {}
        self.runtimes: dict[str, list[str]] = {}  # the names of those that may run each task
        self.described: dict[str, Any] = {}  # the settings of each task
        self.needs_release = False  # True if any task runs a build product
        self.build_products: set[str] = set()
        self.clusters: list[SharedCluster] = []
        notice = self.environment.failure_notice
        documentation = self.text("README.md", "Airflow shows it, and its first paragraph is the DAG's description")
        self.dag = DAG(
            self.folder.name,
            schedule=self.schedule(),
            description=first_paragraph(documentation),
            doc_md=documentation,
            catchup=False,
            on_failure_callback=notice,
            on_success_callback=notice.on_success if notice.success else None,
            max_active_runs=self.environment.max_active_runs,
            user_defined_macros={
                "code": self.environment.code,
                "lake": self.environment.lake,  # a template
                "store": self.environment.store,
                "tables": self.environment.tables,
                "until": until,
                "publishes": publishes,
            },
            default_args={
                "retries": self.environment.retries,
                "retry_delay": self.environment.retry_delay,
                "on_failure_callback": log_failure,
                "on_retry_callback": log_failure,
                **(default_args or {}),
            },
            **options,
        )

    def schedule(self) -> str | None:
        """The schedule that the environment gives this pipeline; PipelineError if it does not know it, or others."""
        tables, file = self.environment.pipelines, f"{self.environment.name}.toml"
        folders = {each.parent.name for each in self.folder.parent.glob("*/dag.py")}
        for name in tables:
            check_known("pipeline", name, folders, f"[pipelines.{name}] of {file} or shared.toml")
        if self.folder.name not in tables:
            raise PipelineError(
                f"{self.folder.name} has no table [pipelines.{self.folder.name}] in {file} or shared.toml; add it, "
                "with a schedule, or empty if only a person starts it."
            )
        schedule: str | None = tables[self.folder.name].get("schedule")
        return schedule

    def __enter__(self) -> "Pipeline":
        self.dag.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            report = self.report_options()
            self.prepend_pin_release()
            if self.jobs:
                self.prepend_look_for_input()
            self.wrap_spark_with_clusters(report)
        self.dag.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def container(self, job: str, *, task_id: str | None = None, **links: Any) -> Task:
        """A task that runs a Python job."""
        entry = catalogue.find(self.catalogue, job, "python", self.dag.dag_id)
        settings = self.settings(entry, task_id or job)
        return self.task(entry, task_id or job, Place(self.environment.container), settings, links)

    def spark(
        self, job: str, *, task_id: str | None = None, cluster: str = "cluster", reopen: bool = False, **links: Any
    ) -> Task:
        """A task that runs a Spark job, on the same cluster as other tasks that name it, or in a container."""
        entry = catalogue.find(self.catalogue, job, "spark", self.dag.dag_id)
        settings = self.settings(entry, task_id or job)
        place, choice = self.spark_place(settings, f"{self.dag.dag_id}/{task_id or job}.json")
        container, runtime = self.environment.container, self.environment.spark
        if place == CONTAINER or runtime is None:
            return self.task(entry, task_id or job, Place(container, choice=choice), settings, links)
        shared = self.shared_cluster(runtime, cluster, f"{cluster}_{task_id or job}" if reopen else cluster)
        found = Place(runtime, shared.operators, choice, container if place == AUTO else None)
        task = self.task(entry, task_id or job, found, settings, links)
        shared.tasks.append(task)
        return task

    def spark_place(self, settings: dict[str, Any], where: str) -> tuple[str, Choice | None]:
        """The place of a Spark task by its settings or its environment, and the engine unless each run chooses it."""
        place, reason = self.environment.spark_place, f"[spark] of the environment '{self.environment.name}' says so"
        if "runtime" in settings:
            place, reason = settings.pop("runtime"), f"{where} says so"
            check_known("runtime", place, [CONTAINER, AUTO, CLUSTER], where)
        if place != CONTAINER and self.environment.spark is None:
            raise PipelineError(
                f"{where} sets the runtime '{place}', but the environment '{self.environment.name}' names no Spark "
                "runtime; name one under [spark.auto] as cluster."
            )
        engines = {CONTAINER: LIGHT, CLUSTER: SPARK}
        return place, Choice(engines[place], reason) if place in engines else None

    def shared_cluster(self, runtime: SparkRuntime, file: str, name: str) -> SharedCluster:
        """The last cluster of a file, or a new one if `name` is new."""
        for shared in reversed(self.clusters):
            if shared.file == file and name in (file, shared.name):
                return shared
        full_name = f"{file}{runtime.cluster_suffix}"
        where = f"{self.dag.dag_id}/{full_name}"
        operators = runtime.open_and_close(name, self.read(full_name), where)
        self.clusters.append(SharedCluster(file, name, operators, []))
        return self.clusters[-1]

    @property
    def catalogue(self) -> Path:
        return self.folder.parent / "job_catalogue.json"

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the app folder."""
        settings: dict[str, Any] = json.loads(self.text(name, "{} if there is nothing to set"))
        return settings

    def text(self, name: str, purpose: str) -> str:
        """A file of the app folder."""
        file = self.folder / name
        if not file.exists():
            raise PipelineError(f"{self.folder.name} has no {name}; write it, {purpose}.")
        return file.read_text()

    def settings(self, job: Job, task_id: str) -> dict[str, Any]:
        """The settings of a task, checked against the parameters of its job."""
        where = f"{self.dag.dag_id}/{task_id}.json"
        settings = self.read(f"{task_id}.json")
        known = ["parameters", "at_trigger", *(SPARK_SETTINGS if job.engine == "spark" else [])]
        for key in settings:
            check_known("setting", key, known, where)
        for name in (*settings.get("parameters", {}), *settings.get("at_trigger", [])):
            check_known("parameter", name, job.parameters.keys() - {job.mapped_by}, where)
        return settings

    def task(
        self,
        job: Job,
        task_id: str,
        place: Place,
        settings: dict[str, Any],
        links: Mapping[str, Any],
    ) -> Task:
        """The operator of a job, mapped or not, after its predecessors."""
        where = f"Task '{task_id}' of {self.dag.dag_id}"
        predecessors = self.predecessors(where, job, links)
        options = self.options(job, task_id, place, settings, predecessors)
        shards = shard_count(where, job, links)
        if shards is not None:
            options["parameters"] = {**options["parameters"], str(job.mapped_by): shards}
        task = self.operator(options, shards)
        self.check_values(where, job, options["parameters"], options["at_trigger"])
        self.declare(where, job, options["parameters"], options["at_trigger"])
        for predecessor in predecessors.values():
            predecessor >> task
        self.jobs[task_id] = job
        self.build_products |= {options[name].get("product", job.name) for name in ("request", "light_request")}
        self.runtimes[task_id] = [each.name for each in (place.runtime, place.container) if each]
        told = ("parameters", "request", "light_request", "predecessors")
        self.described[task_id] = [job.name, *(options[name] for name in told)]
        return task

    def options(
        self,
        job: Job,
        task_id: str,
        place: Place,
        settings: dict[str, Any],
        predecessors: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The options of the operator of a job, before it is mapped."""
        where = f"Task '{task_id}' of {self.dag.dag_id}"
        parameters, at_trigger = settings.pop("parameters", {}), settings.pop("at_trigger", [])
        request = place.runtime.request(job, settings)
        light_request = place.container.request(job, settings) if place.container else {}
        self.needs_release |= "fingerprint" in {**request, **light_request}
        return {
            "task_id": task_id,
            "doc": job.description,
            "job": job.name,
            "runtime": place.runtime,
            "choice": place.choice,
            "auto": place.auto(job, self.environment.max_bytes),
            "lake": self.environment.lake,
            "predecessors": {role: predecessor.task_id for role, predecessor in predecessors.items()},
            "parameters": parameters,
            "declarations": job.parameters,
            "at_trigger": at_trigger,
            "deadline_seconds": job.resources.get("deadline_seconds", self.environment.deadline_seconds),
            "request": request,
            "light_request": light_request,
            "cluster": place.cluster.open.output if place.cluster else None,
            "publishes": "delivery" in job.services,
            "inlets": [Asset(name) for name in job.sources],
            "outlets": [Asset(name) for name in (*job.datasets, *self.products(where, job, predecessors))],
        }

    def report_options(self) -> dict[str, Any] | None:
        """The options of the task that reports on a run; None without jobs to report on, or without the job for it."""
        if not self.jobs or REPORT_TASK not in catalogue.names(self.catalogue):
            return None
        job = catalogue.find(self.catalogue, REPORT_TASK, "python", self.dag.dag_id)
        own = (self.folder / f"{REPORT_TASK}.json").exists()
        settings = self.settings(job, REPORT_TASK) if own else {}
        return self.options(job, REPORT_TASK, Place(self.environment.container), settings, {})

    def predecessors(self, where: str, job: Job, links: Mapping[str, Any]) -> dict[str, Any]:
        """The tasks that hand over to a job, by role; PipelineError if a role is unknown, missing or does not fit."""
        predecessors = {name: value for name, value in links.items() if name != job.mapped_by}
        for role, predecessor in predecessors.items():
            check_known("role", role, [*job.roles, *([job.mapped_by] if job.mapped_by else [])], where)
            self.contract(where, job, role, predecessor)
        for role in job.roles:
            if role not in predecessors:
                raise PipelineError(f"{where} lacks the role '{role}'; name the task that hands it over: {role}=TASK.")
        return predecessors

    def products(self, where: str, job: Job, predecessors: Mapping[str, Any]) -> list[str]:
        """The products that a job publishes, named after the contracts of the tables whose shards it gets."""
        if "delivery" not in job.services or job.outputs:
            return []
        contracts = {
            self.contract(where, self.jobs[writer.task_id], role, self.dag.get_task(before))
            for writer in predecessors.values()
            for role, before in self.described[writer.task_id][-1].items()
        }
        return sorted(f"{PRODUCTS}{contract.partition('@')[0]}" for contract in contracts)

    def operator(self, options: dict[str, Any], shards: int | None) -> Task:
        """The operator with these options, mapped to a number of shards if that is not None."""
        if shards is None:
            return JobOperator(**options)
        limit = self.environment.max_active_tis_per_dagrun
        return JobOperator.partial(max_active_tis_per_dagrun=limit, **options).expand(shard=list(range(shards)))

    def check_values(self, where: str, job: Job, parameters: Mapping[str, Any], at_trigger: Sequence[str]) -> None:
        """Raise PipelineError for a value that the job would refuse; templates are checked once rendered."""
        values = {name: value for name, value in parameters.items() if not is_template(value)}
        deferred = {*at_trigger, *parameters} - values.keys()
        check_parameters({name: job.parameters[name] for name in job.parameters if name not in deferred}, values, where)

    def declare(self, where: str, job: Job, parameters: Mapping[str, Any], at_trigger: Sequence[str]) -> None:
        """Declare the parameters that a run may set as params of the DAG; PipelineError if two tasks' ones differ."""
        for name in at_trigger:
            default = parameters.get(name, job.parameters[name].get("default"))
            param = airflow_param(job.parameters[name], None if is_template(default) else default)
            declared = self.dag.params.get_param(name) if name in self.dag.params else param
            if (declared.schema, declared.value) != (param.schema, param.value):
                raise PipelineError(
                    f"{where} lets a run set '{name}', for which another task has other values or another default; "
                    "give both the same, or list it in at_trigger of one of them only."
                )
            self.dag.params[name] = declared

    def contract(self, where: str, job: Job, role: str, predecessor: Any) -> str:
        """The contract that a predecessor hands over in a role; PipelineError unless it writes one that fits."""
        job_before = self.jobs.get(getattr(predecessor, "task_id", ""))
        if job_before is None:
            raise PipelineError(f"{where} gets {predecessor!r} in the role '{role}', expected the task of a job.")
        contracts = {name: entry["contract"] for name, entry in job_before.outputs.items() if "dataset" not in entry}
        named = [contracts[role]] if role in contracts else list(contracts.values())
        fitting: list[str] = [contract for contract in named if contract in job.roles[role]]
        if len(fitting) != 1:
            outputs = (
                ", ".join(f"{name} ({contract})" for name, contract in contracts.items()) or "nothing to hand over"
            )
            raise PipelineError(
                f"{where} reads {' or '.join(job.roles[role])} in the role '{role}', but '{predecessor.task_id}' "
                f"writes {outputs}; name a task that writes it, or move both jobs to one version of the contract."
            )
        return fitting[0]

    def prepend_pin_release(self) -> None:
        """Put the task that pins the release first, if any task runs a build product."""
        if self.needs_release:
            self.prepend(PinRelease(task_id=pin_release.TASK))

    def prepend_look_for_input(self) -> None:
        """Put the task before all others that skips a scheduled run without new input."""
        inputs = [entry for job in self.jobs.values() for entry in job.inputs.values()]
        written = {dataset for job in self.jobs.values() for dataset in job.datasets}
        settings = json.dumps(self.described, sort_keys=True, default=str)
        self.prepend(
            LookForInput(
                task_id=look_for_input.TASK,
                lake=self.environment.lake,
                raw=sorted({entry["raw"] for entry in inputs if "raw" in entry}),
                datasets=sorted({entry["dataset"] for entry in inputs if "dataset" in entry} - written),
                products=sorted(self.build_products),
                settings=hashlib.sha256(settings.encode()).hexdigest(),
                as_of_day="{{ until() }}" in settings,
            )
        )

    def prepend(self, task: BaseOperator) -> None:
        """Put a task before the first ones; clusters find their places later."""
        clusters = [shared.operators for shared in self.clusters if shared.operators]
        around = {task.task_id}.union(*(cluster.task_ids for cluster in clusters))
        task >> [each for each in self.dag.tasks if each.task_id not in around and each.upstream_task_ids <= around]

    def wrap_spark_with_clusters(self, report: dict[str, Any] | None) -> None:
        """Open each cluster once all that its tasks wait for has run, close it after the last; add watcher and report.

        Both are teardowns, and a run with teardowns needs the watcher.
        """
        opened = [(shared.operators, shared.tasks) for shared in self.clusters if shared.operators]
        for cluster, tasks in opened:
            self.let_runs_choose(cluster, tasks)
        around = set[str]().union(*(cluster.task_ids for cluster, _ in opened))
        last = [task for task in self.dag.tasks if not task.downstream_task_ids and task.task_id not in around]
        before = {task.task_id: self.upstream(task) - around for _, tasks in opened for task in tasks}
        for cluster, tasks in opened:
            self.wrap_with_cluster(cluster, tasks, before)
        if opened or report:
            openers = {task.task_id for cluster, _ in opened for task in (cluster.open, cluster.ready)}
            watched = {look_for_input.TASK, pin_release.TASK, *self.jobs, *openers}
            last_but_one = Watcher(task_id=watcher.TASK, watched=watched)
            [*last, *(cluster.close for cluster, _ in opened)] >> last_but_one
            last_but_one.as_teardown(on_failure_fail_dagrun=True)
            if report:
                last_but_one >> self.report_run(report)

    def let_runs_choose(self, cluster: Cluster, tasks: list[Task]) -> None:
        """Open a cluster on demand if each run chooses the engine of any of its tasks."""
        chosen = [task.task_id for task in tasks if is_chosen(task)]
        if chosen:
            sharing = Sharing(cluster.open.task_id, chosen, [task.task_id for task in tasks if not is_chosen(task)])
            for operator in (cluster.open, cluster.ready, cluster.close):
                operator.sharing = sharing

    def report_run(self, options: dict[str, Any]) -> BaseOperator:
        """The task that reports on a run; after one retry its failure no longer delays the notice of a failed run."""
        name = self.environment.name
        costs = {
            key: self.environment.prices[key]
            for key in ("currency", "million_write_units")
            if key in self.environment.prices
        }
        report = ReportRun(environment=name, tasks=self.costs(), prices=costs, retries=1, **options)
        report.as_teardown()
        return report

    def costs(self) -> dict[str, dict[str, Any]]:
        """Job, engine, runtime, resources and rates of each task of a job, and the rates of clusters."""
        known, spark = self.environment.prices, self.environment.spark
        tasks: dict[str, dict[str, Any]] = {
            shared.operators.open.task_id: {
                "runtime": spark.name,
                "rates": prices.cluster_rates(known, spark.name, shared.operators.instances),
            }
            for shared in self.clusters
            if shared.operators and spark
        }
        for task_id, job in self.jobs.items():
            runtimes, request = self.runtimes[task_id], self.described[task_id][2]
            tasks[task_id] = {
                "job": job.name,
                "engine": job.engine,
                "runtime": runtimes[0] if len(runtimes) == 1 else None,  # else each attempt tells
                "resources": {name: job.resources[name] for name in ("cpu", "memory") if name in job.resources},
                "rates": [
                    {**rate, "runtime": name if len(runtimes) > 1 else None}
                    for name in runtimes
                    for rate in prices.job_rates(known, name, job, request)
                ],
            }
        return tasks

    def wrap_with_cluster(self, cluster: Cluster, tasks: list[Task], before: Mapping[str, set[str]]) -> None:
        """Open a cluster before its tasks and close it after them; `before`: the IDs that each Spark task waits for."""
        task_ids = {task.task_id for task in tasks}
        common = set.intersection(*(before[task_id] for task_id in task_ids))
        for task_id in common.difference(*(self.upstream(self.dag.get_task(task_id)) for task_id in common)):
            self.dag.get_task(task_id) >> cluster.open
        if cluster.ready is not cluster.open:
            cluster.open >> cluster.ready
        for task in tasks:
            if before[task.task_id].isdisjoint(task_ids):
                cluster.ready >> task
            if not any(task.task_id in before[other] for other in task_ids):
                task >> cluster.close
        cluster.close.as_teardown(setups=cluster.open)

    def upstream(self, task: Any) -> set[str]:
        """The IDs of all tasks that a task waits for."""
        ids: set[str] = task.get_flat_relative_ids(upstream=True)
        return ids


def is_chosen(task: Any) -> bool:
    """Return True if each run chooses the engine of a task, mapped or not."""
    options = task.partial_kwargs if isinstance(task, MappedOperator) else vars(task)
    return options["auto"] is not None


def shard_count(where: str, job: Job, links: Mapping[str, Any]) -> int | None:
    """The number of shards of a mapped job, None for any other job."""
    if not job.mapped_by:
        return None
    count = links.get(job.mapped_by)
    if not isinstance(count, int) or count < 1:
        raise PipelineError(
            f"{where} is mapped by '{job.mapped_by}'; give the number of tasks: {job.mapped_by}=NUMBER."
        )
    return count


def is_template(value: Any) -> bool:
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def first_paragraph(document: str) -> str:
    """The first paragraph below the title of a document, in one line."""
    _, _, body = document.partition("\n")
    return " ".join(body.strip().partition("\n\n")[0].split())
