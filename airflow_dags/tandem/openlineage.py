"""OpenLineage's view of a job's attempt, from catalogues and manifest: datasets and facts (facets) about them.

Airflow's provider for OpenLineage calls it if Airflow's configuration names a receiver; nothing else may import it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow.providers.openlineage.extractors import OperatorLineage
from airflow.sdk.definitions.mappedoperator import MappedOperator
from openlineage.client.event_v2 import Dataset, InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    data_quality_assertions_dataset,
    data_quality_metrics_dataset,
    data_quality_metrics_input_dataset,
    dataset_version_dataset,
    documentation_dataset,
    input_statistics_input_dataset,
    output_statistics_output_dataset,
    ownership_dataset,
    schema_dataset,
    source_code_location_job,
    tags_run,
    test_run,
)

from tandem.lake import read, read_document
from tandem.protocol import code_folder, encode, manifest_uri

SOURCE = "TANDEM"  # of tags
GATE_REFUSED = 4  # exit code
Facets = dict[str, Any]


class Lineage:
    """The lineage of a job's task, by its operator."""

    def __init__(self, operator: Any) -> None:
        self.operator = operator
        self.lake: str = operator.lake.rstrip("/")

    @cached_property
    def jobs(self) -> Mapping[str, Any]:
        """The catalogue of all jobs, next to the folder of the pipeline."""
        return self.catalogue("job_catalogue.json")

    @cached_property
    def contracts(self) -> Mapping[str, Any]:
        return self.catalogue("contract_catalogue.json")

    def catalogue(self, name: str) -> Mapping[str, Any]:
        return read_document(f"file://{Path(self.operator.dag.fileloc).parents[1] / name}") or {}

    def declared(self) -> OperatorLineage[Any, Any]:
        """The inputs and outputs that the job.toml declares, before there are figures."""
        outputs = self.jobs[self.operator.job].get("outputs", {})
        written = [self.output(role, entry) for role, entry in outputs.items() if "when" not in entry]
        return self.lineage(self.inputs({}), written, {}, [])

    def published(self) -> OperatorLineage[Any, Any]:
        """The inputs and outputs of the attempt, with the figures of its manifest."""
        uri = manifest_uri(self.operator.attempt.key)
        content = read(uri)
        manifest: dict[str, Any] = json.loads(content)
        outputs = [self.output(role, entry, digest(content)) for role, entry in manifest["outputs"].items()]
        outputs += self.product(manifest)
        tags = {"manifest": uri, "fingerprint": manifest["fingerprint"]}
        return self.lineage(self.inputs(manifest), outputs, tags, warnings_of(manifest))

    def failed(self, failure: Mapping[str, Any]) -> OperatorLineage[Any, Any]:
        """The inputs of a failed attempt, and the gate that refused its result, if one did; the provider has the error.

        `failure` is its failure document, empty if it left none.
        """
        tests = warnings_of(failure)
        if failure.get("exit_code") == GATE_REFUSED:
            tests.append(failed_test("gate", failure["sentence"], "error"))
        return self.lineage(self.inputs(failure), [], {}, tests)

    def lineage(
        self, inputs: list[Dataset], outputs: list[Dataset], tags: Mapping[str, str], tests: list[Any]
    ) -> OperatorLineage[Any, Any]:
        """The lineage with the facts about run and job."""
        operator, fingerprint = self.operator, self.operator.request.get("fingerprint")
        about = {"job": operator.job, "engine": self.jobs[operator.job]["engine"], **tags}
        fields = [tags_run.TagsRunFacetFields(key=key, value=value, source=SOURCE) for key, value in about.items()]
        run: Facets = {"tags": tags_run.TagsRunFacet(tags=fields)}
        if tests:
            run["test"] = test_run.TestRunFacet(tests=tests)
        job: Facets = {}
        if fingerprint:  # of a released build product
            url = code_folder(self.lake, operator.job, fingerprint)
            code = source_code_location_job.SourceCodeLocationJobFacet(type="tandem", url=url, version=fingerprint)
            job = {"sourceCodeLocation": code}
        return OperatorLineage(inputs=inputs, outputs=outputs, run_facets=run, job_facets=job)

    def inputs(self, manifest: Mapping[str, Any]) -> list[Dataset]:
        """The inputs that the job declares, with the figures of a manifest or failure document."""
        delivered = lines_and_reasons(manifest.get("metrics", {}))
        return [
            InputDataset(
                *self.named(name),
                facets=self.facts(contract, version(manifest, role)),
                inputFacets=read_figures(manifest, role) if contract else delivered,
            )
            for role, name, contract in self.sources()
        ]

    def sources(self) -> Iterator[tuple[str, str, str | None]]:
        """Role, path in the lake and contract of each input; raw deliveries have no contract."""
        for role, entry in self.jobs[self.operator.job].get("inputs", {}).items():
            if path := entry.get("raw") or entry.get("dataset"):
                yield role, path, entry.get("contract")
            else:
                task_id = self.operator.predecessors[role]
                outputs = self.jobs[job_of(self.operator.dag.get_task(task_id))]["outputs"]
                fitting = entry.get("contracts") or [entry["contract"]]
                output = role if role in outputs else next(n for n in outputs if outputs[n]["contract"] in fitting)
                yield role, self.hand_over(task_id, output), outputs[output]["contract"]

    def output(self, role: str, entry: Mapping[str, Any], manifest_digest: str | None = None) -> Dataset:
        """An output with its figures; a hand-over has the version that its readers record."""
        path = entry.get("dataset")
        name = self.named(path or self.hand_over(self.operator.task_id, role))
        facts = self.facts(entry["contract"], None if path else manifest_digest) | self.ownership()
        if "rows" not in entry:
            return OutputDataset(*name, facets=facts)
        rows, size = entry["rows"], entry["bytes"]
        files = len(entry["files"]) if "files" in entry else None
        facts["dataQualityMetrics"] = data_quality_metrics_dataset.DataQualityMetricsDatasetFacet(
            rowCount=rows, bytes=size, fileCount=files, columnMetrics=self.column_figures(entry["contract"], rows)
        )
        written = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rows, size, files)
        return OutputDataset(*name, facets=facts, outputFacets={"outputStatistics": written})

    def product(self, manifest: Mapping[str, Any]) -> list[Dataset]:
        """The product that the task wrote in its store, if any: its version, and its contract if the task read it."""
        metrics = manifest["metrics"]
        if "table" not in metrics:
            return []
        contract = manifest.get("inputs", {}).get("product", {}).get("contract")
        facts = self.facts(contract, metrics["version"]) | self.ownership()
        figures: Facets = {}
        if "rows" in metrics:  # of the whole product; a shard counts items only
            rows = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=metrics["rows"])
            figures = {"outputStatistics": rows}
        namespace = metrics.get("store", "dynamodb:").removesuffix(":")
        return [OutputDataset(namespace, metrics["table"], facets=facts, outputFacets=figures)]

    def hand_over(self, task_id: str, output: str) -> str:
        """The path of a hand-over without its run: every run of a task writes another version of the same dataset."""
        return "/".join(["intermediate", encode(self.operator.dag_id), encode(task_id), output])

    def named(self, path: str) -> tuple[str, str]:
        """Namespace and name of a path in the lake, by OpenLineage's rules: s3://bucket and key, or file and path."""
        if self.lake.startswith("file://"):
            return "file", f"{self.lake.removeprefix('file://')}/{path}"
        scheme, _, rest = self.lake.partition("://")
        bucket, _, prefix = rest.partition("/")
        return f"{scheme}://{bucket}", f"{prefix}/{path}".lstrip("/")

    def facts(self, contract: str | None, dataset_version: str | None) -> Facets:
        """Version, and by its contract description and columns of a dataset."""
        facts: Facets = {}
        if dataset_version:
            facts["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(dataset_version)
        if entry := self.contracts.get(contract or ""):
            facts["documentation"] = documentation_dataset.DocumentationDatasetFacet(entry["description"])
            fields = [
                schema_dataset.SchemaDatasetFacetFields(name, kind.removesuffix("?"))
                for name, kind in entry["columns"].items()
            ]
            facts["schema"] = schema_dataset.SchemaDatasetFacet(fields=fields)
        return facts

    def ownership(self) -> Facets:
        """The owners of the task, and so of its results."""
        owners = [ownership_dataset.Owner(owner.strip()) for owner in self.operator.owner.split(",")]
        return {"ownership": ownership_dataset.OwnershipDatasetFacet(owners=owners)}

    def column_figures(self, contract: str, rows: int) -> dict[str, data_quality_metrics_dataset.ColumnMetrics]:
        """Figures of the columns that were checked to have no null: of every column whose type ends without `?`."""
        columns = self.contracts.get(contract, {}).get("columns", {})
        return {
            name: data_quality_metrics_dataset.ColumnMetrics(nullCount=0, count=rows)
            for name, kind in columns.items()
            if not kind.endswith("?")
        }


def job_of(task: Any) -> str:
    """The job of a task, mapped or not."""
    return str(task.partial_kwargs["job"] if isinstance(task, MappedOperator) else task.job)


def read_figures(manifest: Mapping[str, Any], role: str) -> Facets:
    """The size of an input as the job read it."""
    size = manifest.get("inputs", {}).get(role)
    if size is None:
        return {}
    figures = (size.get("rows"), size["bytes"], size["files"])
    return {"inputStatistics": input_statistics_input_dataset.InputStatisticsInputDatasetFacet(*figures)}


def lines_and_reasons(metrics: Mapping[str, Any]) -> Facets:
    """Lines of deliveries, and one assertion for each reason for quarantine, by the metrics of an ingestion."""
    if "lines" not in metrics:
        return {}
    assertions = [
        data_quality_assertions_dataset.Assertion(
            "quarantine", False, severity="warn", name=reason, expected="0", actual=str(count)
        )
        for reason, count in metrics.get("reasons", {}).items()
    ] or [data_quality_assertions_dataset.Assertion("quarantine", True)]
    lines = data_quality_metrics_input_dataset.DataQualityMetricsInputDatasetFacet({}, rowCount=metrics["lines"])
    return {
        "dataQualityMetrics": lines,
        "dataQualityAssertions": data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(assertions),
    }


def warnings_of(document: Mapping[str, Any]) -> list[test_run.TestExecution]:
    """The warnings of a manifest or failure document, as tests that failed."""
    return [failed_test("warning", sentence, "warn") for sentence in document.get("warnings", [])]


def failed_test(name: str, sentence: str, severity: str) -> test_run.TestExecution:
    return test_run.TestExecution(name=name, status="fail", severity=severity, description=sentence)


def version(manifest: Mapping[str, Any], role: str) -> str | None:
    """The digest of the manifest that an input was read from; of several, the digest of their digests."""
    digests = sorted(parent["digest"] for parent in manifest.get("parents", []) if parent["role"] == role)
    return digests[0] if len(digests) == 1 else digest("".join(digests).encode()) if digests else None


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
