"""Inputs of a task: the files that manifests name, checked by their sizes, and the deliveries of the raw level."""

import datetime
import functools
import unicodedata
from dataclasses import dataclass, field
from typing import Any, Protocol

from common import contracts, protocol
from common.contracts import Contract, evolution
from common.errors import ArgumentError, InputError
from common.handover import manifest, partitions, storage
from common.handover.buckets import shard_of_bucket
from common.handover.job_toml import Job, Table
from common.handover.manifest import Manifest
from common.handover.storage import File, in_parallel

NOT_COME = "the day of its folder has not come yet"


class Reader(Protocol):
    """The attributes of a task that its inputs depend on."""

    job: Job
    lake: str
    dag_id: str
    run_id: str
    predecessors: dict[str, str]
    parameters: dict[str, Any]
    map_index: int | None
    map_count: int | None

    def now(self) -> datetime.datetime: ...

    def log(self, event: str, **numbers: object) -> None: ...


@dataclass
class Input:
    """An input as its manifests name it: files that exist with their sizes, and the number of rows in them.

    `partial` is true if `files` are not all: of a sharded input those of this shard. Then `rows` are those of all.
    `taken` is the time of the look-up; of a hand-over, that of the oldest input that it was made from. `older` has the
    contract of each file that was written under an older version, by its URI: it lacks the columns added since.
    `until` is the end that was set for a dataset's window: only rows that arrived before it count, and are read.
    """

    role: str
    contract: Contract | None
    files: list[File]
    rows: int = 0
    manifests: list[Manifest] = field(default_factory=list)
    taken: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))
    folder: str = ""  # of raw deliveries, with the day of arrival of each file
    arrivals: dict[str, datetime.date] = field(default_factory=dict)
    older: dict[str, Contract] = field(default_factory=dict)
    until: datetime.date | None = None
    partial: bool = False
    left_out: list[tuple[File, str]] = field(default_factory=list)  # files that are not deliveries, with reasons

    @property
    def summary(self) -> dict[str, Any]:
        """The contract and the size of this input, for manifests; of a part of a table the rows are unknown."""
        rows = {} if self.partial else {"rows": self.rows}
        size = {"bytes": sum(file.bytes for file in self.files), "files": len(self.files)}
        return {"contract": self.contract and self.contract.name, **rows, **size}

    @property
    def oldest(self) -> datetime.date:
        """The day of the oldest partition of a dataset by date."""
        return min(map(day_of, self.manifests))

    @property
    def end(self) -> datetime.date:
        """The day after the window's last: after the newest partition in it, never after `until`."""
        return max(map(day_of, self.manifests)) + datetime.timedelta(days=1)


def day_of(partition: Manifest) -> datetime.date:
    """Return the day of a partition by its folder."""
    return datetime.date.fromisoformat(partition.uri.split("/")[-2].removeprefix("date="))


def resolve(reader: Reader, role: str, table: Table) -> Input:
    """Return the files of an input, checked by their sizes; InputError names a missing or wrong one."""
    contract = contracts.load(table.contract) if table.contract else None
    taken = reader.now()
    until = None
    if table.raw:
        return list_deliveries(reader, role, table, [table.raw])[0]
    if table.dataset:
        until = end_of_window(reader, table)
        taken = min(taken, start_of(until)) if until else taken  # so that it does not replace a result of a later day
        manifests = dataset_manifests(reader, role, table)
        output = None  # a partition's manifest has a single output
    else:
        manifests = predecessor_manifests(reader, role)
        output = predecessor_output(manifests[0], role, table)
        taken = min(manifest.basis(parent.document) for parent in manifests)
    result = Input(role, contract, [], 0, manifests, taken, until=until)
    for parent in manifests:
        add_output(result, parent, output, table, reader.job.name)
    if table.sharded and output:
        select_shard(reader, result, output)
    check_files(result.files)
    return result


def dataset_manifests(reader: Reader, role: str, table: Table) -> list[Manifest]:
    """Return the manifests of a dataset's partitions in the input's window; InputError if a required one has none."""
    folder = f"{reader.lake}/{table.dataset}"
    if table.dates:
        manifests = days_in_window(reader, folder, table)
    else:
        found = manifest.load_or_none(protocol.manifest_uri(f"{folder}/all"))
        manifests = [found] if found else []
    if not manifests and not table.optional:
        until = end_of_window(reader, table)
        arrived = f" in its window with rows that had arrived before {until}; set a later end, or" if until else ";"
        raise InputError(
            f"The dataset {folder} (input '{role}') has no published partition{arrived} run the job that fills it."
        )
    return manifests


def days_in_window(reader: Reader, folder: str, table: Table) -> list[Manifest]:
    """Return the manifests of a dataset's days in the input's window, without days all of whose rows arrived later.

    Without a first day the window has the days that the table's `window` names, up to the newest of these manifests.
    """
    until = end_of_window(reader, table)

    @functools.cache
    def load(day: str) -> Manifest | None:
        found = manifest.load_or_none(protocol.manifest_uri(f"{folder}/date={day}"))
        late = manifest.rows_arrived_since(found, until) if found and until else 0
        return None if late and late == manifest.partition_rows(found) else found

    days = in_window(reader, partitions.registered(folder), table)
    if table.window and table.dates and reader.parameters[table.dates[0]] is None:
        newest = next(filter(None, map(load, reversed(days))), None)  # a registered day may be empty
        length = datetime.timedelta(days=reader.parameters[table.window] - 1)
        days = [day for day in days if newest and day >= str(day_of(newest) - length)]
    return [found for found in in_parallel(load, days) if found]


def end_of_window(reader: Reader, table: Table) -> datetime.date | None:
    """Return the day after the last of an input's window, None if it is not set."""
    return reader.parameters[table.dates[1]] if table.dates else None


def start_of(day: datetime.date) -> datetime.datetime:
    """Return midnight (UTC) at the beginning of a day."""
    return datetime.datetime.combine(day, datetime.time(), datetime.UTC)


def add_output(result: Input, parent: Manifest, output: str | None, table: Table, job: str) -> None:
    """Add the files and rows of a manifest's output (None: its only one); InputError if it has another contract.

    The first manifest fixes the contract of an input that accepts alternatives.
    """
    outputs = parent.document["outputs"]
    entry = outputs[output] if output else next(iter(outputs.values()))
    expected = (result.contract.name,) if result.contract and table.contracts else table.fitting
    of_files = manifest.contracts_of_files(entry)
    for found in sorted({entry["contract"], *of_files.values()}):
        if found not in expected:
            remedy = "run the two jobs at versions that agree"
            if table.dataset:
                remedy = evolution.remedy(found, expected[0], f"inputs.{result.role}")
            raise InputError(
                f"{parent.uri} has files of {found}, but input '{result.role}' of {job} expects "
                f"{' or '.join(expected)}; {remedy}."
            )
    newest = result.contract = contracts.load(table.contract or entry["contract"])
    folder = parent.uri.rpartition("/")[0]
    result.older |= {
        f"{folder}/{path}": contracts.load(found) for path, found in of_files.items() if found != newest.name
    }
    result.files += [File(f"{folder}/{file['path']}", file["bytes"]) for file in entry["files"]]
    result.rows += entry["rows"] - (manifest.rows_arrived_since(parent, result.until) if result.until else 0)


def select_shard(reader: Reader, source: Input, output: str) -> None:
    """Leave a sharded input only the files of this task's shard; ArgumentError if the predecessor divides otherwise.

    They are those of the predecessor's shard of the same number, or those of a range of its buckets.
    """
    shard, shards = reader.map_index or 0, reader.map_count or 1
    entries = [parent.document["outputs"][output] for parent in source.manifests]
    if shards == 1:
        return
    if len(entries) == shards:
        wanted = [(source.manifests[shard], file["path"]) for file in entries[shard]["files"]]
    elif len(entries) == 1 and (buckets := entries[0].get("buckets", 0)) >= shards:
        files = [file for file in entries[0]["files"] if shard_of_bucket(file["bucket"], shards, buckets) == shard]
        wanted = [(source.manifests[0], file["path"]) for file in files]
    else:
        number = reader.job.mapped_by
        expected = f"1 or {len(entries)}" if len(entries) > 1 else f"1 to {entries[0].get('buckets', 1)}"
        raise ArgumentError(
            f"Task '{reader.predecessors[source.role]}' (input '{source.role}') does not divide into {shards} shards; "
            f"set {number} of {reader.job.name} to {expected}."
        )
    uris = {f"{parent.uri.rpartition('/')[0]}/{path}" for parent, path in wanted}
    source.files, source.partial = [file for file in source.files if file.uri in uris], True


def list_deliveries(reader: Reader, role: str, table: Table, folders: list[str]) -> list[Input]:
    """Return the files of each of these folders of the raw level by day of arrival, as one input per folder.

    Files in folders without a valid day are left out, those of a day after tomorrow too: they would move the end of
    every open window. So are files below the table's folder that belong to none of these folders; the first input has
    them.
    """
    result = [Input(role, None, [], taken=reader.now(), folder=f"{reader.lake}/{folder}") for folder in folders]
    strays: dict[str, str] = {}
    steps = {folder[: end if end > 0 else None] for folder in folders for end in slashes(folder, str(table.raw))}
    for folder in sorted(steps | {str(table.raw)}):
        found = result[folders.index(folder)] if folder in folders else None
        days_of: dict[str, str] = {}
        for name in storage.folders(f"{reader.lake}/{folder}"):
            if f"{folder}/{name}" in steps:
                continue
            reason = day_problem(name, folder, folders) if found else misplaced(f"{folder}/{name}", folders)
            if reason:
                strays[f"{reader.lake}/{folder}/{name}"] = reason
            else:
                days_of[name.removeprefix("arrival=")] = f"{reader.lake}/{folder}/{name}"
        if found:
            add_deliveries(found, {days_of[day]: day for day in in_window(reader, list(days_of), table)})
    for folder, files in storage.files_of(list(strays)).items():
        result[0].left_out += [(file, strays[folder]) for file in files]
    for each in result:
        reader.log("deliveries", role=role, folder=each.folder, files=len(each.files), left_out=len(each.left_out))
    return result


def slashes(folder: str, root: str) -> list[int]:
    """Return the positions in a folder's path at which the folders between a root and it end; 0 for itself."""
    return [position for position, letter in enumerate(folder) if letter == "/" and position > len(root)] + [0]


def day_problem(name: str, folder: str, folders: list[str]) -> str | None:
    """Return the reason why a folder's name is not a day of arrival up to tomorrow, None if it is."""
    day = partitions.parse_day(name.removeprefix("arrival=")) if name.startswith("arrival=") else None
    if day is None:
        inside = [other.removeprefix(f"{folder}/") for other in folders if other.startswith(f"{folder}/")]
        near = protocol.nearest(name, inside) if inside and not name.startswith("arrival=") else ""
        return f"its folder is not a day of arrival, arrival=YYYY-MM-DD{near and ', nor of a source'}{near}"
    if day > today() + datetime.timedelta(days=1):
        return NOT_COME
    return None


def today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def misplaced(folder: str, folders: list[str]) -> str:
    """Return the reason why a folder in which no source has days of arrival is left out."""
    return f"{folder} is not a source's folder{protocol.nearest(folder, folders)}"


def add_deliveries(found: Input, days: dict[str, str]) -> None:
    """Add the files below the folders of some days of arrival to an input; files that cannot be read are left out."""
    for folder, files in storage.files_of(list(days)).items():
        for file in files:
            if reason := name_problem(file):
                found.left_out.append((file, reason))
            else:
                found.files.append(file)
                found.arrivals[file.uri] = datetime.date.fromisoformat(days[folder])


def name_problem(file: File) -> str | None:
    """Return the reason why a file is not regular or its name is unusable; None if it can be read."""
    if not file.uri.isprintable() and any(unicodedata.category(letter) in ("Cc", "Cs") for letter in file.uri):
        return "its name has control characters or is not UTF-8"
    if not storage.is_remote(file.uri) and not storage.local(file.uri).is_file():
        return "not a regular file"
    return None


def in_window(reader: Reader, days: list[str], table: Table) -> list[str]:
    """Return the days in the window that the input's two date parameters span."""
    first, after = (reader.parameters[name] for name in table.dates) if table.dates else (None, None)
    return [day for day in days if (first is None or day >= str(first)) and (after is None or day < str(after))]


def predecessor_manifests(reader: Reader, role: str) -> list[Manifest]:
    """Return the manifest of a role's predecessor, or of each of its shards; every shard records their number.

    A task that was mapped in one try and not in another has left both: the newer counts.
    """
    predecessor = reader.predecessors[role]

    def uri(index: int | None) -> str:
        return protocol.manifest_uri(protocol.task_key(reader.lake, reader.dag_id, reader.run_id, predecessor, index))

    plain, first = in_parallel(manifest.load_or_none, [uri(None), uri(0)])
    if plain and not (first and published_at(first) > published_at(plain)):
        return [plain]
    if first is None:
        raise InputError(
            f"Task '{predecessor}' (input '{role}') has published nothing at {uri(0)}; run it to completion first."
        )
    count = first.document["task"]["map_count"]
    found = [first, *in_parallel(manifest.load_or_none, [uri(index) for index in range(1, count)])]
    for index, each in enumerate(found):
        if each is None:
            raise InputError(
                f"Task '{predecessor}' (input '{role}') has published nothing at {uri(index)}; run it to "
                "completion first."
            )
    shards = [each for each in found if each]
    check_same_origin(predecessor, role, shards)
    return shards


def published_at(parent: Manifest) -> str:
    """Return the time at which a manifest was published, as text that sorts by time."""
    return str(parent.document.get("ended", ""))


def check_same_origin(predecessor: str, role: str, shards: list[Manifest]) -> None:
    """Raise InputError, with the shards to rerun, unless all have the same shard count, parameters and parents.

    The newest shard is the reference.
    """
    newest = origin(max(shards, key=published_at))
    stale = [number for number, shard in enumerate(shards) if origin(shard) != newest]
    if stale:
        count, expected = origin(shards[stale[0]])[0], newest[0]
        differs = "was made from other parameters or inputs than the newest"
        if count != expected:
            differs = f"is one of {count} shards, the newest is one of {expected} shards"
        raise InputError(
            f"The shards of task '{predecessor}' (input '{role}') differ in their origin: {shards[stale[0]].uri} "
            f"{differs}; rerun task '{predecessor}' with map index {', '.join(map(str, stale[:20]))}"
            f"{' and others' if len(stale) > 20 else ''}."
        )


def origin(shard: Manifest) -> tuple[Any, ...]:
    """Return shard count, parameters and parents, equal in shards made from the same inputs by any code version."""
    document = shard.document
    return document["task"]["map_count"], document.get("parameters"), document.get("parents")


def predecessor_output(parent: Manifest, role: str, table: Table) -> str:
    """Return the predecessor's output for a role: the one of the role's name, else the only one that fits."""
    outputs: dict[str, Any] = parent.document["outputs"]
    if role in outputs:
        return role
    fitting = [name for name, entry in outputs.items() if entry["contract"] in table.fitting]
    if len(fitting) != 1:
        listed = ", ".join(f"{name} ({entry['contract']})" for name, entry in sorted(outputs.items())) or "none"
        raise InputError(
            f"{parent.uri} has {len(fitting)} outputs of contract {' or '.join(table.fitting)}, expected one for "
            f"input '{role}'; it has {listed}."
        )
    return fitting[0]


def check_files(files: list[File]) -> None:
    """Raise InputError for the first file that is missing or has another size."""
    sizes = storage.sizes([file.uri for file in files])
    for file in files:
        if file.uri not in sizes:
            raise InputError(f"{file.uri} is missing, though its manifest lists it; rerun the task that wrote it.")
        if sizes[file.uri] != file.bytes:
            raise InputError(
                f"{file.uri} has {sizes[file.uri]} bytes, its manifest lists {file.bytes}; "
                "rerun the task that wrote it."
            )
