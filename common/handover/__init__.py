"""The hand-over, which every job speaks: `run` a job's `main` as a `Task`. Standard library and clients of stores."""

from common.handover.runner import run
from common.handover.task import Task

__all__ = ["Task", "run"]
