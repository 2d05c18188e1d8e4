"""New jobs and pipelines, schemas, the documentation site."""
