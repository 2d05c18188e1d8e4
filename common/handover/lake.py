"""The four levels of the lake, and where each thing lies in them."""

import hashlib
import re

MAX_NAME = 200  # file systems end at 255 bytes, S3 keys at 1,024: three IDs and a file's name must fit


def encode(identifier: str) -> str:
    """The name of a folder for an ID: readable, injective and safe for Hadoop paths, S3 keys and file systems.

    Letters, digits, `_`, `-` and `.` stay; every other byte of the UTF-8 form becomes `~` and two hexadecimal digits
    (run IDs hold `:` and `+`, which Hadoop and URLs misread). A first `.` or `_` is written so too, because Hadoop
    hides such names and `..` climbs. A name over 200 characters keeps 150 and ends in `~~` and a SHA-256 prefix.
    Raises ValueError for an empty ID.
    """
    if not identifier:
        raise ValueError("An ID is empty, expected at least one character.")
    name = re.sub(
        rb"^[._]|[^A-Za-z0-9_.-]",
        lambda match: b"~%02x" % match.group()[0],
        identifier.encode("utf-8", "surrogatepass"),
    ).decode("ascii")
    if len(name) > MAX_NAME:
        digest = hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{name[:150]}~~{digest[:32]}"
    return name


def task_key(lake: str, dag_id: str, run_id: str, task_id: str, map_index: int | None = None) -> str:
    """URI of the folder that holds a task's attempts and the manifest that names the one that counts."""
    key = "/".join([lake, "intermediate", *map(encode, (dag_id, run_id, task_id))])
    return key if map_index is None else f"{key}/map-{map_index}"


def attempt_folder(key: str, attempt: int) -> str:
    """URI of the one folder below which an attempt writes."""
    return f"{key}/attempt-{attempt}"


def manifest(folder: str) -> str:
    """URI of the manifest of a task's key or of a dataset's partition."""
    return f"{folder}/manifest.json"


def failure(attempt: str) -> str:
    """URI of the failure document in an attempt's folder."""
    return f"{attempt}/failure.json"
