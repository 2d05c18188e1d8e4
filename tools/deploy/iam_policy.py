"""The minimal rights of a job, of its tasks in one pipeline, or of the nodes of a pipeline's clusters, as a policy.

A job may read the datasets of its inputs and write those of its outputs, keep the hand-overs of its own tasks, read
those of their predecessors, read its own code, and use the tables of the products that it is handed. The job that
reports on runs reads those of its pipelines and all manifests, and writes reports. Only deployments may write code or
releases. All jobs of a cluster have the rights of its nodes: use --pipeline without --job for them. A lake on s3://
gets one document for AWS, see aws_policy.py; a lake on gs:// the policies of its folders and tables, see
google_policy.py, without --job and --pipeline those of all jobs.
"""

import argparse
import json

from common.errors import ArgumentError, TaskError
from common.handover import storage
from tools import environment
from tools.command_line import exit_on_task_error
from tools.deploy import aws_policy, google_policy, pipelines, rights


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    parser.add_argument("--job", metavar="JOB", help="its job; all Spark jobs of the pipeline if absent")
    parser.add_argument("--pipeline", metavar="PIPELINE", help="limit the policy to this pipeline")
    arguments = parser.parse_args()
    settings = environment.load(arguments.environment)
    lake, delivery = environment.lake(settings), settings["delivery"]
    known = pipelines.tasks(settings.name)
    if lake.startswith("s3://"):
        check_store(delivery["store"], "dynamodb:", lake)
        tasks = rights.select(known, arguments.job, arguments.pipeline)
        document = aws_policy.policy(tasks, known, lake, delivery["tables"], storage.encryption_key(lake))
    elif lake.startswith("gs://"):
        check_store(delivery["store"], "bigtable:", lake)
        accounts = google_policy.accounts(known, arguments.job, arguments.pipeline)
        project = settings["spark"]["dataproc"]["project"]
        document = google_policy.policies(accounts, known, lake, delivery["tables"], project)
    else:
        raise TaskError(f"The lake of {settings.name} is {lake}, expected s3://… or gs://…; a folder needs no policy.")
    print(json.dumps(document, indent=2))


def check_store(store: str, expected: str, lake: str) -> None:
    """Raise ArgumentError if products are in the tables of another cloud than the lake."""
    if not store.startswith((expected, "redis:")):
        raise ArgumentError(
            f"Products are delivered to {store} and the lake is {lake}, expected {expected} for one policy of both; "
            "add the rights on the tables of the other cloud there."
        )


if __name__ == "__main__":
    main()
