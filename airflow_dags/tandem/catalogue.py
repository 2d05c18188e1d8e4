"""Read job_catalogue.json, the generated descriptions of all jobs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.dag_errors import PipelineError, check_known
from tandem.protocol import light_product


@dataclass(frozen=True)
class Job:
    """A job as its job.toml describes it."""

    name: str
    engine: str
    inputs: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, Mapping[str, Any]]
    parameters: Mapping[str, Mapping[str, Any]]
    resources: Mapping[str, Any]
    spark: Mapping[str, Any]
    mapped_by: str | None = None
    requirements: str | None = None  # of a Spark job: its bundle has libraries.zip
    services: tuple[str, ...] = ()
    description: str = ""

    @property
    def image(self) -> str:
        """The build product that containers run: a Spark job has a light image, for the light engine."""
        return light_product(self.name) if self.engine == "spark" else self.name

    @property
    def roles(self) -> dict[str, list[str]]:
        """The contracts that fit each input which a predecessor hands over; one of them suffices."""
        return {
            role: entry.get("contracts") or [entry["contract"]]
            for role, entry in self.inputs.items()
            if "dataset" not in entry and "raw" not in entry
        }

    @property
    def sources(self) -> list[str]:
        """The deliveries and the datasets of the lake that the job reads."""
        return sorted({entry[kind] for entry in self.inputs.values() for kind in ("raw", "dataset") if kind in entry})

    @property
    def datasets(self) -> list[str]:
        """The datasets of the lake that the job writes."""
        return [entry["dataset"] for entry in self.outputs.values() if "dataset" in entry]


def names(file: Path) -> list[str]:
    """The names of all jobs."""
    return list(json.loads(file.read_text()))


def find(file: Path, name: str, engine: str, where: str) -> Job:
    """The job of that name; PipelineError if there is none for that engine."""
    jobs = json.loads(file.read_text())
    check_known("job", name, jobs, where)
    job = Job(name=name, **jobs[name])
    if job.engine != engine:
        raise PipelineError(
            f"{where} runs '{name}' as a {engine} job, but its job.toml sets engine = \"{job.engine}\"."
        )
    return job
