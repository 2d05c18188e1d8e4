"""Templates of jobs and pipelines, schemas, the documentation site."""
