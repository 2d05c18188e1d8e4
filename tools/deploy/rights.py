"""The rights that tasks need: folders of the lake that they read, write or delete in, and tables of products."""

from common import contracts
from common.errors import ArgumentError
from common.handover.job_toml import Job, load
from common.ingestion import suppression
from common.protocol import REPORT_TASK, REPORTS, encode
from tools.deploy.pipelines import TaskOfPipeline
from tools.lake.forget_lake import ingests_users
from tools.packaging.fingerprint import ROOT, select_jobs

EVENTS = "logs/spark"  # where environments keep Spark's event logs
MANIFESTS = ["intermediate/*/manifest.json", "curated/*/manifest.json"]  # for the lineage of a run
CATALOGUE = ["curated/items", "curated/*/ingested"]  # for names, and for deliveries by the ledger


def select(known: list[TaskOfPipeline], job: str | None, pipeline: str | None) -> list[TaskOfPipeline]:
    """Select the tasks that a policy is for; ArgumentError if there are none."""
    if job is None and pipeline is None:
        raise ArgumentError("Neither a job nor a pipeline is named; give JOB=…, PIPELINE=… or both.")
    if job:
        select_jobs([job])
    selected = [
        task
        for task in known
        if task.pipeline == (pipeline or task.pipeline) and (task.job == job if job else job_of(task).engine == "spark")
    ]
    if not selected:
        raise ArgumentError(
            f"No task of {pipeline or 'any pipeline'} runs {job or 'a Spark job'}, so there is nothing to allow; "
            "name a job and a pipeline that runs it."
        )
    return selected


def folders(tasks: list[TaskOfPipeline]) -> tuple[set[str], set[str], set[str]]:
    """Return the folders of the lake that tasks only read, that they write, and in which they delete."""
    read, written, deleted = set(), set(), set()
    for task in tasks:
        job = job_of(task)
        own_folders = hand_over(task.pipeline, task.task)
        read |= {str(table.dataset or table.raw) for table in job.inputs.values() if not table.handed_over}
        read |= {hand_over(task.pipeline, predecessor) for predecessor in task.predecessors.values()}
        datasets = {table.dataset for table in job.outputs.values() if table.dataset}
        written |= {own_folders, *datasets}
        deleted |= {own_folders, *(f"{dataset}/{of}" for dataset in datasets for of in ("_*", "*/version=*"))}
        if job.engine == "spark":
            read.add(f"code/{job.name}")  # its bundle
            written.add(EVENTS)
            deleted.add(EVENTS)  # Spark renames the file of a running application
        if job.name == REPORT_TASK:
            read |= {f"intermediate/{encode(task.pipeline)}", *CATALOGUE}
            written.add(REPORTS)
        if ingests_users(job):
            read.add(suppression.FOLDER)  # users to leave out
    return read - written, written, deleted


def hand_over(pipeline: str, task: str) -> str:
    """Return the pattern of a task's folders in all runs of its pipeline."""
    return f"intermediate/{encode(pipeline)}/*/{encode(task)}"


def job_of(task: TaskOfPipeline) -> Job:
    return load(ROOT / "jobs" / task.job)


def products(task: TaskOfPipeline, known: list[TaskOfPipeline]) -> set[str]:
    """Return the contracts of the products that a task, or the one before it, is handed, if it uses their store."""
    if "delivery" not in job_of(task).services:
        return set()
    predecessors = [
        other for other in known if other.pipeline == task.pipeline and other.task in task.predecessors.values()
    ]
    written = {
        contract for other in predecessors for table in job_of(other).outputs.values() for contract in table.fitting
    }
    taken = {contract for table in job_of(task).inputs.values() for contract in table.fitting}
    found = {contract for contract in written & taken if contracts.load(contract).product}
    return found.union(*(products(other, known) for other in predecessors))
