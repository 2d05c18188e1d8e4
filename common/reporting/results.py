"""The result of a task with all its mapped instances: one set of metrics and parameters for figures and funnels."""

from typing import Any, NamedTuple

from common.reporting.documents import Ended, InstanceDocuments, Manifest

# Metrics of mapped jobs that are neither sums of integers nor means of other numbers.
SAME_IN_ALL = {("select_recommendations", "items"), ("select_recommendations", "items_available")}
SUMS = {("predict_churn", "expected_churn")}


class Result(NamedTuple):
    """The valid results of a task's instances, or the newest failures of those that have none."""

    task: str
    job: str
    documents: list[Ended]
    folders: list[str]  # of the documents' keys, as paths in the lake
    metrics: dict[str, Any]

    @property
    def succeeded(self) -> bool:
        """True if all instances that left a document have published."""
        return all(isinstance(each, Manifest) for each in self.documents)

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters, which all instances share."""
        return self.documents[0].parameters

    def number(self, name: str) -> float | None:
        """Return a metric if it is a number."""
        return as_number(self.metrics.get(name))

    def count(self, name: str) -> int:
        """Return a metric that counts; 0 if there is none."""
        return int(self.number(name) or 0)

    def counts(self, name: str) -> dict[str, int]:
        """Return a metric that counts by name, the largest first, without zeros."""
        return counts_of(self.metrics.get(name))


def result_of(task: str, found: dict[int | None, InstanceDocuments]) -> Result | None:
    """Return the result of a task; None if no instance left a job's document."""
    pairs = []
    for _, instance in sorted(found.items(), key=lambda each: -1 if each[0] is None else each[0]):
        failures = [attempt.failure for _, attempt in sorted(instance.attempts.items()) if attempt.failure]
        newest: list[Ended] = [*failures, *([instance.manifest] if instance.manifest else [])]
        if newest:
            pairs.append((newest[-1], (instance.path or "").rpartition("/")[0]))
    job = next((document.job for document, _ in pairs if document.job), None)
    if not pairs or job is None:
        return None
    documents, folders = [document for document, _ in pairs], [folder for _, folder in pairs]
    names = dict.fromkeys(name for document in documents for name in document.metrics)
    metrics = {
        name: merge((job, name), [document.metrics[name] for document in documents if name in document.metrics])
        for name in names
    }
    return Result(task, job, documents, folders, metrics)


def merge(name: tuple[str, str], values: list[Any]) -> Any:
    """Return the metric of a task from those of its instances: integers and their groups summed, others averaged."""
    if len(values) == 1 or name in SAME_IN_ALL:
        return values[0]
    if all(isinstance(value, dict) for value in values):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: merge(name, [value[key] for value in values if key in value]) for key in keys}
    numbers = [number for value in values if (number := as_number(value)) is not None]
    if len(numbers) < len(values):
        return values[0]
    if name in SUMS or all(isinstance(value, int) for value in values):
        return sum(values)
    return sum(numbers) / len(numbers)


def as_number(value: Any) -> float | None:
    """Return a value of JSON if it is a number."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def counts_of(value: Any) -> dict[str, int]:
    """Return counts by name from a value of JSON, the largest first, without zeros; none if it is something else."""
    if not isinstance(value, dict):
        return {}
    counts = {name: int(number) for name, each in value.items() if (number := as_number(each))}
    return dict(sorted(counts.items(), key=lambda each: -each[1]))
