"""Versions of an environment's DAGs in its lake: dags/<number>-<hash>.zip, and the newest one in dags/current.json.

Airflow reads them as a DAG bundle (airflow_dags/plugins/tandem_bundle.py). A name is never used again, so nobody reads
a version while it is replaced or deleted.
"""

import hashlib
import json
import re
from collections.abc import Set

from common.errors import TaskError
from common.handover import storage

KEPT_VERSIONS = 50  # the newest ones, also for tasks of ended runs that are cleared


def current(lake: str) -> tuple[str | None, str | None]:
    """Return the newest version, None before the first deployment, and the tag that `publish` compares."""
    try:
        content, tag = storage.read(current_uri(lake))
    except FileNotFoundError:
        return None, None
    return json.loads(content)["version"], tag


def publish(lake: str, archive: bytes, before: tuple[str | None, str | None]) -> str:
    """Make DAGs the newest version, unless they are, and return its name.

    TaskError if `before` is no longer the newest one, because another deployment was faster.
    """
    newest, tag = before
    version = f"{number(newest) + 1}-{hashlib.sha256(archive).hexdigest()[:16]}"
    if newest and same(newest, version):
        return newest
    storage.write(f"{lake}/dags/{version}.zip", archive)
    try:
        storage.replace(current_uri(lake), json.dumps({"version": version}).encode() + b"\n", tag)
    except storage.Conflict:
        other, _ = current(lake)
        if other and same(other, version):
            return other
        raise TaskError(
            f"Another deployment concurrently switched to the DAGs of version {other}, so those of this checkout are "
            "not deployed; check them, then rerun this command."
        ) from None
    return version


def delete_old(lake: str, used: Set[str]) -> None:
    """Delete the versions before the oldest one in use, without the newest ones."""
    newest, _ = current(lake)
    oldest = min([number(newest) - KEPT_VERSIONS + 1, *map(number, used)])
    found = [(file.uri, re.search(r"/(\d+)-[0-9a-f]{16}\.zip$", file.uri)) for file in storage.files(f"{lake}/dags")]
    storage.delete_files([uri for uri, match in found if match and int(match[1]) < oldest])


def number(version: str | None) -> int:
    return int(version.partition("-")[0]) if version else 0


def same(one: str, other: str) -> bool:
    """Return True if two versions have the same content."""
    return one.partition("-")[2] == other.partition("-")[2]


def current_uri(lake: str) -> str:
    return f"{lake}/dags/current.json"
