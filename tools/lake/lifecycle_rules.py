"""The rules by which the bucket of an environment forgets: what tasks hand over, uploads that no one ended, logs.

A lifecycle configuration for S3 on standard output: aws s3api put-bucket-lifecycle-configuration takes it.
"""

import argparse
import json
import sys
from typing import Any

from common.errors import TaskError
from tools import environment

ABORT_DAYS = 7  # no upload of a task takes so long
FORMER_DAYS = 7  # of what was deleted or overwritten; a bucket keeps versions for the raw level, which no rule names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    try:
        said = environment.load(parser.parse_args().environment)
        print(json.dumps(rules(environment.lake(said), said["keep_intermediate_days"]), indent=2))
    except TaskError as error:
        sys.exit(str(error))


def rules(lake: str, days: int) -> dict[str, Any]:
    """The lifecycle configuration of the bucket of a lake whose hand-overs and logs are kept so many days."""
    prefix = lake.removeprefix("s3://").partition("/")[2]
    prefix = f"{prefix}/" if prefix else ""
    kept = [
        {
            "ID": f"forget {name}",
            "Status": "Enabled",
            "Filter": {"Prefix": f"{prefix}{name}/"},
            "Expiration": {"Days": days},
        }
        for name in ("intermediate", "logs")
    ]
    former = [
        {
            "ID": f"forget former versions of {name}",
            "Status": "Enabled",
            "Filter": {"Prefix": f"{prefix}{name}/"},
            "NoncurrentVersionExpiration": {"NoncurrentDays": FORMER_DAYS},
        }
        for name in ("intermediate", "curated", "logs")
    ]
    abort = {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABORT_DAYS}}
    uploads = {"ID": "abort uploads", "Status": "Enabled", "Filter": {"Prefix": prefix}, **abort}
    return {"Rules": [*kept, *former, uploads]}


if __name__ == "__main__":
    main()
