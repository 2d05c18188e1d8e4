"""The bytes that a task would read: of deliveries, of a dataset's partitions, of hand-overs."""

import re
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from airflow.sdk import Context

from tandem import lake
from tandem.protocol import arrival_day, is_ingested, ledger_entries, ledger_folder, manifest_uri, task_key
from tandem.stores.files import File


class Unknown(Exception):
    """The size of an input is not known; the message is a part of a sentence."""


def input_bytes(context: Context, root: str, task: Any, parameters: Mapping[str, Any], ended: Collection[str]) -> int:
    """The bytes of all inputs of a task; Unknown if they are not known once the tasks in `ended` have run."""
    total = 0
    for role, entry in task.auto.inputs.items():
        first, end = window(entry, parameters)
        if "raw" in entry:
            total += raw_bytes(root, entry["raw"], first, end)
        elif "dataset" in entry:
            length = int(known(parameters, entry["window"])) if "window" in entry and not first else None
            total += dataset_bytes(f"{root}/{entry['dataset']}", "dates" in entry, first, end, length)
        else:
            predecessor = task.predecessors[role]
            if predecessor not in ended:
                raise Unknown(f"'{predecessor}' has not run yet, so the size of its input '{role}' is not known")
            instance: Any = context["ti"]
            key = task_key(root, instance.dag_id, instance.run_id, predecessor)
            total += handed_over_bytes(key, role, entry.get("contracts") or [entry["contract"]])
    return total


def window(entry: Mapping[str, Any], parameters: Mapping[str, Any]) -> tuple[str, str]:
    """The first day of an input and the day after its last, empty if not set."""
    first, end = (str(known(parameters, name) or "") for name in entry.get("dates", ("", "")))
    return first, end


def known(parameters: Mapping[str, Any], name: str) -> Any:
    """The value of a parameter, None without one; Unknown if that class stands for it: only its own task has it."""
    value = parameters.get(name)
    if value is Unknown:
        raise Unknown(f"its parameter '{name}' is not known yet")
    return value


def raw_bytes(root: str, folder: str, first: str, end: str) -> int:
    """The bytes of the deliveries that were not ingested, or of all that arrived in a window."""
    if not first and not end:
        _, new = deliveries(root, folder, datetime.now(UTC).date())
        return sum(each.bytes for each in new)
    found = [(arrival_day(each.uri) or "", each.bytes) for each in lake.files(f"{root}/{folder}")]
    return sum(size for day, size in found if day >= first and (not end or day < end))


def deliveries(root: str, folder: str, today: date) -> tuple[int, list[File]]:
    """Return the number of files below a folder of the raw level, and those that are not ingested.

    Files of days after tomorrow do not count: their day has not come.
    """
    entries: dict[str, Any] = {}
    for document in lake.files(ledger_folder(root, folder.partition("/")[2])):
        entries |= ledger_entries(lake.read(document.uri))
    tomorrow = str(today + timedelta(days=1))
    files = {each.uri.removeprefix(f"{root}/"): each for each in lake.files(f"{root}/{folder}")}
    come = {path: each for path, each in files.items() if (arrival_day(path) or "") <= tomorrow}
    return len(come), [each for path, each in come.items() if not is_ingested(entries.get(path), each.bytes, each.tag)]


def dataset_bytes(folder: str, by_date: bool, first: str, end: str, length: int | None) -> int:
    """The bytes of the partitions of a dataset: by date those in a window, which ends with the newest day, else all.

    `length` is the number of days of a window without a first day.
    """
    if not by_date:
        return sum(map(output_bytes, lake.read_documents([manifest_uri(f"{folder}/all")])))
    found = (re.search(r"/date=([0-9-]{10})/manifest\.json$", each.uri) for each in lake.files(folder))
    days = sorted(match[1] for match in found if match and (not end or match[1] < end))
    if length and days:
        first = str(date.fromisoformat(days[-1]) - timedelta(days=length - 1))
    uris = [manifest_uri(f"{folder}/date={day}") for day in days if day >= first]
    return sum(map(output_bytes, lake.read_documents(uris)))


def handed_over_bytes(key: str, role: str, contracts: Collection[str]) -> int:
    """The bytes that a task handed over in a role, or all instances of a mapped task."""
    manifests = re.compile(re.escape(key.removeprefix("file://")) + r"(/map-[0-9]+)?/manifest\.json$")
    total = 0
    for document in lake.read_documents([each.uri for each in lake.files(key) if manifests.search(each.uri)]):
        outputs = document.get("outputs", {})
        fitting = [name for name, output in outputs.items() if output.get("contract") in contracts]
        total += output_bytes(
            {"outputs": {name: outputs[name] for name in fitting if role not in fitting or name == role}}
        )
    return total


def output_bytes(document: Mapping[str, Any]) -> int:
    return sum(int(output.get("bytes", 0)) for output in document.get("outputs", {}).values())
