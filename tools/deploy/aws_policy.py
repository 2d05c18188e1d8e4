"""The AWS policy of tasks: a document for the role of a job, or of the nodes of a pipeline's clusters.

If TANDEM_S3_KMS_KEY names a key, the job may encrypt and decrypt with it, through S3.
"""

from collections.abc import Iterable
from typing import Any

from common.delivery.store import table_name
from common.errors import ArgumentError
from common.protocol import REPORT_TASK
from tools.deploy.pipelines import TaskOfPipeline
from tools.deploy.rights import MANIFESTS, folders, job_of, products

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
        "ConditionCheckItem",  # a transaction needs this, DeleteItem and PutItem
        "DeleteItem",
        "GetItem",
        "PartiQLUpdate",
        "PutItem",
        "Query",
    )
]


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
    reports = any(job.name == REPORT_TASK for job in jobs)
    manifests = [f"{bucket_arn}/{prefix}{name}" for name in MANIFESTS] if reports else []
    statements = [
        statement("Read", READ, [*objects(readable), *manifests]) if readable else {},
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
