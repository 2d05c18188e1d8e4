"""The hand-over, which every job speaks: `run` a job's `main` as a `Task`. Standard library and boto3 only."""

from common.handover.runner import run
from common.handover.task import Task

__all__ = ["Task", "run"]
