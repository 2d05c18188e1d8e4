"""Print the lifecycle rules of an environment's bucket: they expire hand-overs, reports, logs and former versions.

The output is the file of `aws s3api put-bucket-lifecycle-configuration` for a lake on s3://, and that of
`gcloud storage buckets update --lifecycle-file` for a lake on gs://.
"""

import argparse
import json
from typing import Any

from common.errors import TaskError
from common.protocol import REPORTS
from tools import environment
from tools.command_line import exit_on_task_error

ABORT_DAYS = 7  # longer than any upload of a task
FORMER_DAYS = 7  # of deleted or overwritten objects; versions are for the raw level, which no rule names
FORMER = ("intermediate", "curated", "logs", REPORTS)


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    settings = environment.load(parser.parse_args().environment)
    days, reports_days = settings["keep_intermediate_days"], settings["keep_reports_days"]
    print(json.dumps(rules(environment.lake(settings), days, reports_days), indent=2))


def rules(lake: str, days: int, reports_days: int) -> dict[str, Any]:
    """Return the lifecycle configuration of a lake's bucket; hand-overs and logs are kept for `days`."""
    scheme, _, path = lake.partition("://")
    if scheme not in ("s3", "gs"):
        raise TaskError(f"The lake is {lake}, expected s3://… or gs://…; a folder has no lifecycle rules.")
    prefix = path.partition("/")[2]
    prefix = f"{prefix}/" if prefix else ""
    days_of = {"intermediate": days, "logs": days, REPORTS: reports_days}
    kept = {f"{prefix}{name}/": count for name, count in days_of.items()}
    former = [f"{prefix}{name}/" for name in FORMER]
    return s3_rules(prefix, kept, former) if scheme == "s3" else google_rules(kept, former)


def s3_rules(prefix: str, kept: dict[str, int], former: list[str]) -> dict[str, Any]:
    """Return S3's configuration: days of live objects by prefix, and prefixes whose former versions expire."""

    def rule(name: str, below: str, **action: dict[str, int]) -> dict[str, Any]:
        return {"ID": name, "Status": "Enabled", "Filter": {"Prefix": below}, **action}

    return {
        "Rules": [
            *(rule(f"forget {below}", below, Expiration={"Days": days}) for below, days in kept.items()),
            *(
                rule(f"forget former {below}", below, NoncurrentVersionExpiration={"NoncurrentDays": FORMER_DAYS})
                for below in former
            ),
            rule("abort uploads", prefix, AbortIncompleteMultipartUpload={"DaysAfterInitiation": ABORT_DAYS}),
        ]
    }


def google_rules(kept: dict[str, int], former: list[str]) -> dict[str, Any]:
    """Return Google's configuration; a resumable upload needs no rule, because it expires after a week."""
    by_days = {days: [below for below in kept if kept[below] == days] for days in kept.values()}
    conditions: list[dict[str, Any]] = [
        *({"age": days, "matchesPrefix": below} for days, below in by_days.items()),
        {"daysSinceNoncurrentTime": FORMER_DAYS, "matchesPrefix": former},
    ]
    return {"rule": [{"action": {"type": "Delete"}, "condition": condition} for condition in conditions]}


if __name__ == "__main__":
    main()
