"""Datasets between jobs: each reader takes every version that the writers may leave in partitions."""

from pathlib import Path

from common.handover import job_toml

JOBS = [job_toml.load(file.parent) for file in sorted((Path(__file__).parents[2] / "jobs").glob("*/job.toml"))]


def test_readers_take_the_versions_that_writers_leave() -> None:
    written = [table for job in JOBS for table in job.outputs.values() if table.dataset]
    pairs = [
        (job.name, role, reader, writer)
        for job in JOBS
        for role, reader in job.inputs.items()
        for writer in written
        if reader.dataset == writer.dataset
    ]
    assert {reader.dataset for _, _, reader, _ in pairs} >= {"curated/events", "curated/items", "curated/users"}
    refused = [f"{job} {role}" for job, role, reader, writer in pairs if not {*writer.fitting} <= {*reader.fitting}]
    assert refused == []
