"""What a task reads: the files that manifests name, all there with their sizes, and the deliveries of the raw level."""

import datetime
import unicodedata
from dataclasses import dataclass, field
from typing import Any, Protocol

from common import contracts, protocol
from common.contracts import Contract
from common.errors import InputError
from common.handover import manifest, partitions, storage
from common.handover.job_toml import Job, Table
from common.handover.manifest import Manifest
from common.handover.storage import File, at_once


class Reader(Protocol):
    """The task that reads, as far as its inputs depend on it."""

    job: Job
    lake: str
    dag_id: str
    run_id: str
    predecessors: dict[str, str]
    parameters: dict[str, Any]

    def now(self) -> datetime.datetime: ...

    def log(self, event: str, **numbers: object) -> None: ...


@dataclass
class Input:
    """An input as the manifests name it: files that are all there with their sizes, and how many rows they hold.

    `taken` is when it was found, of a hand-over when the oldest of what it was made from was.
    """

    role: str
    contract: Contract | None
    files: list[File]
    rows: int = 0
    manifests: list[Manifest] = field(default_factory=list)
    taken: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))
    folder: str = ""  # of raw deliveries, with the day of arrival of each file
    arrivals: dict[str, datetime.date] = field(default_factory=dict)
    left_out: list[tuple[File, str]] = field(default_factory=list)  # deliveries that are none, and why

    @property
    def day_after_newest(self) -> datetime.date:
        """The day after the newest of the partitions, of a dataset by date."""
        newest = max(manifest.uri.split("/")[-2] for manifest in self.manifests)
        return datetime.date.fromisoformat(newest.removeprefix("date=")) + datetime.timedelta(days=1)


def resolve(reader: Reader, role: str, table: Table) -> Input:
    """The files of an input, checked to be all there with their sizes; InputError names what is missing or wrong."""
    contract = contracts.load(table.contract) if table.contract else None
    taken = reader.now()
    if table.raw:
        return deliveries(reader, role, table, taken)
    if table.dataset:
        folder = f"{reader.lake}/{table.dataset}"
        names = (
            [f"date={day}" for day in in_window(reader, partitions.registered(folder), table)]
            if table.dates
            else ["all"]
        )
        found = at_once(manifest.load_or_none, [protocol.manifest_uri(f"{folder}/{name}") for name in names])
        manifests = [partition for partition in found if partition]
        output = None  # a partition's manifest holds only the one output that fills it
        if not manifests and not table.optional:
            raise InputError(
                f"The dataset {folder} (input '{role}') has no published partition; run the job that fills it."
            )
    else:
        manifests = predecessor_manifests(reader, role)
        output = predecessor_output(manifests[0], role, table)
        taken = min(manifest.basis(parent.document) for parent in manifests)
    result = Input(role, contract, [], 0, manifests, taken)
    for parent in manifests:
        outputs = parent.document["outputs"]
        entry = outputs[output] if output else next(iter(outputs.values()))
        expected = (result.contract.name,) if result.contract else table.fitting
        if entry["contract"] not in expected:
            raise InputError(
                f"{parent.uri} is of contract {entry['contract']}, but input '{role}' of {reader.job.name} expects "
                f"{' or '.join(expected)}; run the two jobs at versions that agree."
            )
        result.contract = contracts.load(entry["contract"])
        folder = parent.uri.rpartition("/")[0]
        result.files += [File(f"{folder}/{file['path']}", file["bytes"]) for file in entry["files"]]
        result.rows += entry["rows"]
    check_files(result.files)
    return result


def deliveries(reader: Reader, role: str, table: Table, taken: datetime.datetime) -> Input:
    """The files of the raw level by day of arrival; those in folders that are not such a day are left out.

    A folder of a later day than tomorrow is left out too: it would move the end of every window that is open.
    """
    result = Input(role, None, [], taken=taken, folder=f"{reader.lake}/{table.raw}")
    tomorrow = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1)
    days_of: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for name in storage.folders(result.folder):
        day = partitions.real_day(name.removeprefix("arrival=")) if name.startswith("arrival=") else None
        if day is None:
            reasons[name] = "its folder is not a day of arrival, arrival=YYYY-MM-DD"
        elif day > tomorrow:
            reasons[name] = "the day of its folder has not come yet"
        else:
            days_of[str(day)] = name
    names = [*(days_of[day] for day in in_window(reader, list(days_of), table)), *reasons]
    for folder, files in storage.files_of([f"{result.folder}/{name}" for name in names]).items():
        name = folder.rpartition("/")[2]
        for file in files:
            reason = reasons.get(name) or unusable_name(file)
            if reason:
                result.left_out.append((file, reason))
            else:
                result.files.append(file)
                result.arrivals[file.uri] = datetime.date.fromisoformat(name.removeprefix("arrival="))
    if result.left_out or reasons:
        reader.log("left_out", role=role, files=len(result.left_out), folders=ascii(list(reasons)[:5]))
    return result


def unusable_name(file: File) -> str | None:
    """The reason why a file cannot be read by its name, or is not a file; None if it can be read."""
    if not file.uri.isprintable() and any(unicodedata.category(letter) in ("Cc", "Cs") for letter in file.uri):
        return "its name has control characters or is not UTF-8"
    if not storage.is_s3(file.uri) and not storage.local(file.uri).is_file():
        return "not a regular file"
    return None


def in_window(reader: Reader, named: list[str], table: Table) -> list[str]:
    """The days that lie in the window that the input's two date parameters name."""
    first, after = (reader.parameters[name] for name in table.dates) if table.dates else (None, None)
    return [day for day in named if (first is None or day >= str(first)) and (after is None or day < str(after))]


def predecessor_manifests(reader: Reader, role: str) -> list[Manifest]:
    """The manifest of a role's predecessor, or one of each of its shards; each shard says how many there are.

    A task that was mapped in one try and not in another has left both: the newer counts.
    """
    predecessor = reader.predecessors[role]

    def shard(index: int | None) -> str:
        return protocol.manifest_uri(protocol.task_key(reader.lake, reader.dag_id, reader.run_id, predecessor, index))

    plain, first = at_once(manifest.load_or_none, [shard(None), shard(0)])
    if plain and not (first and published(first) > published(plain)):
        return [plain]
    if first is None:
        raise InputError(
            f"Task '{predecessor}' (input '{role}') has published nothing at {shard(0)}; run it to its end first."
        )
    count = first.document["task"]["map_count"]
    found = [first, *at_once(manifest.load_or_none, [shard(index) for index in range(1, count)])]
    for index, each in enumerate(found):
        if each is None:
            raise InputError(
                f"Task '{predecessor}' (input '{role}') has published nothing at {shard(index)}; run it to its end "
                "first."
            )
    shards = [each for each in found if each]
    check_one_making(predecessor, role, shards)
    return shards


def published(parent: Manifest) -> str:
    """The time at which a manifest was published, as a text that sorts by time."""
    return str(parent.document.get("ended", ""))


def check_one_making(predecessor: str, role: str, shards: list[Manifest]) -> None:
    """InputError that names the shards to run again if not all were made from the same.

    That is: one number of shards, the same parameters, and the same manifests read. The newest is taken for right.
    """
    newest = making(max(shards, key=published))
    stale = [number for number, shard in enumerate(shards) if making(shard) != newest]
    if stale:
        count, wanted = making(shards[stale[0]])[0], newest[0]
        differs = "was made from other parameters or inputs than the newest"
        if count != wanted:
            differs = f"is one of {count} parts, the newest is one of {wanted} parts"
        raise InputError(
            f"The shards of task '{predecessor}' (input '{role}') were not made from the same: {shards[stale[0]].uri} "
            f"{differs}; run task '{predecessor}' again with map index {', '.join(map(str, stale[:20]))}"
            f"{' and others' if len(stale) > 20 else ''}."
        )


def making(shard: Manifest) -> tuple[Any, ...]:
    """The facts that shards of a task share if they were made from the same inputs, by any version of the code."""
    document = shard.document
    return document["task"]["map_count"], document.get("parameters"), document.get("parents")


def predecessor_output(parent: Manifest, role: str, table: Table) -> str:
    """The predecessor's output for a role: the one of the role's name, else the only one that fits."""
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
    """InputError for the first file that is not there or of another size."""
    there = storage.sizes([file.uri for file in files])
    for file in files:
        if file.uri not in there:
            raise InputError(f"{file.uri} is missing, though its manifest lists it; run the task that wrote it again.")
        if there[file.uri] != file.bytes:
            raise InputError(
                f"{file.uri} has {there[file.uri]} bytes, its manifest says {file.bytes}; "
                "run the task that wrote it again."
            )
