"""The part of the DAGs that is written once: pipelines out of jobs, and the runtimes that run them."""

from tandem.pipeline import Pipeline

__all__ = ["Pipeline"]
