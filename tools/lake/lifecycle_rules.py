"""Print the lifecycle rules of an environment's bucket: they expire hand-overs, unfinished uploads and logs.

The output is a lifecycle configuration for S3, for aws s3api put-bucket-lifecycle-configuration.
"""

import argparse
import json
from typing import Any

from tools import environment
from tools.command_line import exit_on_task_error

ABORT_DAYS = 7  # longer than any upload of a task
FORMER_DAYS = 7  # of deleted or overwritten objects; versions are for the raw level, which no rule names


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    settings = environment.load(parser.parse_args().environment)
    print(json.dumps(rules(environment.lake(settings), settings["keep_intermediate_days"]), indent=2))


def rules(lake: str, days: int) -> dict[str, Any]:
    """Return the lifecycle configuration of a lake's bucket; hand-overs and logs are kept for `days`."""
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
