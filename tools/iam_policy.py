"""The least AWS policy that a job needs in an environment, made from its job.toml, as a policy document.

A job may read what its inputs name and write what its outputs name, keep its own hand-over, and use the tables of the
products that it is handed. Which tasks run it is no matter of a job's, so a hand-over may be any of the lake's. The key
that TANDEM_S3_KMS_KEY names, if it does, is one that the job may encrypt and decrypt with, by way of S3.
"""

import argparse
import json
import sys
from typing import Any

from common import contracts, s3
from common.delivery.tables import table_name
from common.failures import ArgumentError, Failure
from common.job import Job, load
from tools import environment
from tools.build import named
from tools.fingerprint import ROOT

READ = ["s3:GetObject"]
WRITE = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
ENCRYPT = ["kms:Decrypt", "kms:GenerateDataKey"]
TABLE = [f"dynamodb:{name}" for name in ("BatchGetItem", "BatchWriteItem", "GetItem", "PutItem", "Query")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    parser.add_argument("--job", required=True, metavar="JOB", help="whose policy it is")
    arguments = parser.parse_args()
    try:
        (name,) = named([arguments.job])
        said = environment.load(arguments.environment)
        lake = environment.lake(said)
        if not lake.startswith("s3://"):
            raise Failure(f"The lake of {said.name} is {lake}, expected s3://…; what is no S3 needs no policy.")
        tables, key = said["delivery"]["tables"], s3.key_of_encryption()
        print(json.dumps(policy(load(ROOT / "jobs" / name), lake, tables, key), indent=2))
    except Failure as error:
        sys.exit(str(error))


def policy(job: Job, lake: str, tables: str, key: str | None = None) -> dict[str, Any]:
    """The policy document of a job on a lake on S3, of tables whose names begin so, of a KMS key's ARN or ID."""
    readable, writable = folders(job)
    bucket, _, prefix = lake.removeprefix("s3://").partition("/")
    prefix = f"{prefix}/" if prefix else ""
    place = f"arn:aws:s3:::{bucket}"

    def objects(names: list[str]) -> list[str]:
        return [f"{place}/{prefix}{name}/*" for name in names]

    statements = [
        statement("Read", READ, objects(readable)) if readable else {},
        statement("Write", WRITE, objects(writable)),
        {
            **statement("List", ["s3:ListBucket"], [place]),
            "Condition": {"StringLike": {"s3:prefix": [f"{prefix}{name}/*" for name in sorted(readable + writable)]}},
        },
        statement("ListUploads", ["s3:ListBucketMultipartUploads"], [place]),
    ]
    if "dynamodb" in job.services:
        names = sorted({table_name(tables, contract) for contract in products(job)})
        statements.append(statement("Tables", TABLE, [f"arn:aws:dynamodb:*:*:table/{name}" for name in names]))
    if key:
        statements.append(encryption(key))
    return {"Version": "2012-10-17", "Statement": [each for each in statements if each]}


def folders(job: Job) -> tuple[list[str], list[str]]:
    """The folders of the lake that a job only reads, and those that it also writes, its own hand-over among them."""
    read = {table.dataset or table.raw for table in job.inputs.values() if not table.handed_over}
    written = {"intermediate", *(table.dataset for table in job.outputs.values() if table.dataset)}
    if job.engine == "spark":
        read.add(f"code/{job.name}")  # its bundle
    return sorted(str(name) for name in read - written), sorted(str(name) for name in written)


def encryption(key: str) -> dict[str, Any]:
    """The statement on a KMS key, by way of S3 alone; ArgumentError for an alias, which no policy grants rights on."""
    if "alias/" in key:
        raise ArgumentError(
            f"TANDEM_S3_KMS_KEY names the alias {key}, but policies grant rights on keys; give the key's ID or ARN."
        )
    resource = key if key.startswith("arn:") else f"arn:aws:kms:*:*:key/{key}"
    condition = {"StringLike": {"kms:ViaService": "s3.*.amazonaws.com"}}
    return {**statement("Encrypt", ENCRYPT, [resource]), "Condition": condition}


def products(job: Job) -> list[str]:
    """The contracts of what a job may be handed that are products."""
    named = [contract for table in job.inputs.values() for contract in table.fitting]
    return [contract for contract in named if contracts.load(contract).product]


def statement(name: str, actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Sid": name, "Effect": "Allow", "Action": actions, "Resource": resources}


if __name__ == "__main__":
    main()
