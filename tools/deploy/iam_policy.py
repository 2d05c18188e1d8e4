"""The minimal AWS policy of a job, of its tasks in one pipeline, or of the nodes of a pipeline's clusters.

A job may read the datasets of its inputs and write those of its outputs, keep the hand-overs of its own tasks, read
those of their predecessors, read its own code, and use the DynamoDB tables of the products that it is handed. Only
deployments may write code or releases. If TANDEM_S3_KMS_KEY names a key, the job may encrypt and decrypt with it,
through S3. EMR gives all steps of a cluster one role: use --pipeline without --job for that.
"""

import argparse
import json
from collections.abc import Iterable
from typing import Any

from common import contracts
from common.delivery.tables import table_name
from common.errors import ArgumentError, TaskError
from common.handover import s3
from common.handover.job_toml import Job, load
from common.ingestion import suppression
from common.protocol import encode
from tools import environment
from tools.command_line import exit_on_task_error
from tools.deploy import pipelines
from tools.deploy.pipelines import TaskOfPipeline
from tools.lake.forget_lake import ingests_users
from tools.packaging.build import select_jobs
from tools.packaging.fingerprint import ROOT

READ = ["s3:GetObject"]
WRITE = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
DELETE = ["s3:DeleteObject"]  # files that Spark's committer moves
LOG = ["s3:PutObject"]
ENCRYPT = ["kms:Decrypt", "kms:GenerateDataKey"]
TABLE = [
    f"dynamodb:{name}"
    for name in (
        "BatchGetItem",
        "BatchWriteItem",
        "ConditionCheckItem",  # a transaction needs this, PutItem and UpdateItem
        "GetItem",
        "PartiQLUpdate",
        "PutItem",
        "Query",
        "UpdateItem",
    )
]


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    parser.add_argument("--job", metavar="JOB", help="its job; all Spark jobs of the pipeline if absent")
    parser.add_argument("--pipeline", metavar="PIPELINE", help="limit the policy to this pipeline")
    arguments = parser.parse_args()
    settings = environment.load(arguments.environment)
    lake = environment.lake(settings)
    if not lake.startswith("s3://"):
        raise TaskError(f"The lake of {settings.name} is {lake}, expected s3://…; other storage needs no policy.")
    known = pipelines.tasks(settings.name)
    selected = select(known, arguments.job, arguments.pipeline)
    print(json.dumps(policy(selected, known, lake, settings["delivery"]["tables"], s3.encryption_key()), indent=2))


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


def policy(
    tasks: list[TaskOfPipeline], known: list[TaskOfPipeline], lake: str, tables: str, key: str | None = None
) -> dict[str, Any]:
    """Return the policy document of tasks: a lake on S3, the prefix of table names, a KMS key's ARN or ID."""
    readable, writable, deletable = folders(tasks)
    bucket, _, prefix = lake.removeprefix("s3://").partition("/")
    prefix = f"{prefix}/" if prefix else ""
    bucket_arn = f"arn:aws:s3:::{bucket}"

    def objects(names: Iterable[str]) -> list[str]:
        return [f"{bucket_arn}/{prefix}{name}/*" for name in sorted(names)]

    # IfExists: S3 checks this right, without a prefix, before it reports that an object does not exist.
    listed = {"StringLikeIfExists": {"s3:prefix": [f"{prefix}{name}/*" for name in sorted(readable | writable)]}}
    jobs = [job_of(task) for task in tasks]
    spark = any(job.engine == "spark" for job in jobs)
    statements = [
        statement("Read", READ, objects(readable)) if readable else {},
        statement("Write", WRITE, objects(writable)),
        statement("Delete", DELETE, objects(deletable)),
        statement("Log", LOG, objects(["logs/emr", "logs/emr-serverless"])) if spark else {},
        {**statement("List", ["s3:ListBucket"], [bucket_arn]), "Condition": listed},
        statement("ListUploads", ["s3:ListBucketMultipartUploads"], [bucket_arn]),
    ]
    if names := sorted({table_name(tables, contract) for task in tasks for contract in products(task, known)}):
        statements.append(statement("Tables", TABLE, [f"arn:aws:dynamodb:*:*:table/{name}" for name in names]))
    if key:
        statements.append(encryption(key))
    return {"Version": "2012-10-17", "Statement": [each for each in statements if each]}


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
        if ingests_users(job):
            read.add(suppression.FOLDER)  # users to leave out
    return read - written, written, deleted


def hand_over(pipeline: str, task: str) -> str:
    """Return the pattern of a task's folders in all runs of its pipeline."""
    return f"intermediate/{encode(pipeline)}/*/{encode(task)}"


def job_of(task: TaskOfPipeline) -> Job:
    return load(ROOT / "jobs" / task.job)


def products(task: TaskOfPipeline, known: list[TaskOfPipeline]) -> set[str]:
    """Return the contracts of the products that a task, or the one before it, is handed, if it uses DynamoDB."""
    if "dynamodb" not in job_of(task).services:
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


def encryption(key: str) -> dict[str, Any]:
    """Return the statement on a KMS key, through S3 only; ArgumentError for an alias: policies grant rights on keys."""
    if "alias/" in key:
        raise ArgumentError(
            f"TANDEM_S3_KMS_KEY names the alias {key}, but policies grant rights on keys; give the key's ID or ARN."
        )
    resource = key if key.startswith("arn:") else f"arn:aws:kms:*:*:key/{key}"
    condition = {"StringLike": {"kms:ViaService": "s3.*.amazonaws.com"}}
    return {**statement("Encrypt", ENCRYPT, [resource]), "Condition": condition}


def statement(name: str, actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Sid": name, "Effect": "Allow", "Action": actions, "Resource": resources}


if __name__ == "__main__":
    main()
