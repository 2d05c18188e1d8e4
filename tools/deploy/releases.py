"""Releases of an environment: the live one, the predecessor of each, and the copy in Airflow.

releases/current.json in the lake is the live release; only a conditional write replaces it, because Airflow's variables
have none. Runs use the variable `release`, {product: fingerprint}, with the number in its description: a copy, written
after. releases/<number>.json keeps the release that this one replaced. It is written first, so a deployment that stops
before the switch leaves an unused number, and one that stops after it leaves an Airflow that the next deployment or
rollback brings up to date.
"""

import json
import os
import re
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from typing import Any

from common.errors import ArgumentError, InputError, TaskError
from common.handover import storage
from tools.airflow_api import Airflow, AirflowError
from tools.environment import Settings, require
from tools.packaging.fingerprint import job_of

VARIABLE = "release"
PATH = f"/api/v2/variables/{VARIABLE}"
MAX_UPDATES = 10  # of the variable, while concurrent deployments write it, too


@dataclass(frozen=True)
class Release:
    """The products of a release, {name: fingerprint}; number 0 is no release, or an unnumbered one."""

    number: int
    jobs: dict[str, str]

    def __str__(self) -> str:
        return f"release {self.number}" if self.number else "an unnumbered release" if self.jobs else "nothing"


def connect(settings: Settings) -> Airflow:
    """Log in to the Airflow of an environment, with AIRFLOW_USERNAME and AIRFLOW_PASSWORD if they are set.

    TaskError if it does not answer or rejects the login.
    """
    url = require(settings, "airflow", "https://HOST").rstrip("/")
    user, password = os.environ.get("AIRFLOW_USERNAME"), os.environ.get("AIRFLOW_PASSWORD")
    body = {"username": user, "password": password} if user else None
    try:
        return Airflow(url, Airflow(url, "").call("/auth/token", body)["access_token"])
    except urllib.error.HTTPError as error:
        raise TaskError(
            f"Airflow at {url} ({settings.name}) rejected the login ({error}); set AIRFLOW_USERNAME and "
            "AIRFLOW_PASSWORD."
        ) from None
    except (OSError, ValueError) as error:
        raise TaskError(
            f"Airflow at {url} ({settings.name}) does not answer ({error}); start it, or correct {settings.file}."
        ) from None


def current(lake: str, server: Airflow) -> tuple[Release, str | None]:
    """Return the live release and the tag that `switch` compares.

    In a lake without a current release, it is the release of Airflow, without a tag.
    """
    try:
        content, tag = storage.read(current_uri(lake))
    except FileNotFoundError:
        return airflow_release(server), None
    document = json.loads(content)
    return Release(document["number"], document["jobs"]), tag


def airflow_release(server: Airflow) -> Release:
    """Return the release in Airflow's variable, which the next run of any pipeline uses."""
    try:
        variable = server.call(PATH)
    except OSError as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 404:
            return Release(0, {})
        raise TaskError(f"Airflow at {server.url} does not return its variable '{VARIABLE}' ({error}).") from None
    number = re.match(r"release (\d+)", variable.get("description") or "")
    return Release(int(number[1]) if number else 0, json.loads(variable["value"]))


def record(lake: str, jobs: dict[str, str], before: Release) -> Release:
    """Number a release and record the one that it will replace; nothing runs it yet."""
    document = {"jobs": jobs, "before": {"number": before.number, "jobs": before.jobs}}
    content = json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
    taken = [re.search(r"/(\d+)\.json$", file.uri) for file in storage.files(f"{lake}/releases")]
    number = max([before.number, *(int(match[1]) for match in taken if match)])
    while True:
        number += 1
        try:
            storage.replace(document_uri(lake, number), content, None)
            return Release(number, jobs)
        except storage.Conflict:  # a concurrent deployment took this number
            continue


def predecessor(lake: str, release: Release) -> Release:
    """Return the release that this one replaced; InputError if it is not known."""
    if not release.number:
        raise InputError("The live release has no number, so its predecessor is not known; deploy another one.")
    try:
        kept = json.loads(storage.read(document_uri(lake, release.number))[0])["before"]
    except FileNotFoundError:
        raise InputError(
            f"{document_uri(lake, release.number)} is missing, expected the predecessor of {release} in it."
        ) from None
    if not kept["jobs"]:
        raise InputError(f"Release {release.number} is the first one; there is none to roll back to.")
    return Release(**kept)


def document_uri(lake: str, number: int) -> str:
    return f"{lake}/releases/{number:06}.json"


def current_uri(lake: str) -> str:
    return f"{lake}/releases/current.json"


def switch(lake: str, server: Airflow, to: Release, tag: str | None) -> None:
    """Make a release live if the tag still matches, then update Airflow; TaskError if another release is live."""
    document = {"number": to.number, "jobs": to.jobs, "deployment": uuid.uuid4().hex}  # no two writes are the same
    try:
        storage.replace(current_uri(lake), json.dumps(document, indent=1, sort_keys=True).encode() + b"\n", tag)
    except storage.Conflict:
        live, _ = current(lake, server)
        raise TaskError(
            f"Another deployment concurrently switched to {live}, so {to} is not released; check it, then rerun this "
            "command."
        ) from None
    update_airflow(lake, server)


def update_airflow(lake: str, server: Airflow) -> bool:
    """Copy the live release to Airflow's variable until both agree; True if they differed.

    A deployment that wrote an older release over a newer one detects that here and corrects it.
    """
    for update in range(MAX_UPDATES):
        live, copied = current(lake, server)[0], airflow_release(server)
        if live == copied:
            return update > 0
        write_variable(server, live, copied)
    raise TaskError(
        f"Airflow at {server.url} still has {copied} after {MAX_UPDATES} updates, expected {live}; rerun this command."
    )


def write_variable(server: Airflow, release: Release, copied: Release) -> None:
    """Write a release to Airflow's variable, which contains another one."""
    body: dict[str, Any] = {
        "key": VARIABLE,
        "value": json.dumps(release.jobs, sort_keys=True),
        "description": str(release),
    }
    try:
        if copied == Release(0, {}):
            server.call("/api/v2/variables", body)
        else:
            server.call(PATH, body, "PATCH")
    except (AirflowError, OSError) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 409:  # created by a concurrent deployment
            return
        raise TaskError(
            f"{release} is live, but Airflow at {server.url} rejected it ({error}), so new runs use {copied}; rerun "
            "this command."
        ) from None


def store(files: dict[str, bytes], remote: str) -> bool:
    """Write the files that a folder lacks, then read all of them back; True if any was written."""
    existing = {file.uri for file in storage.files(remote)}
    missing = [name for name in sorted(files) if f"{remote}/{name}" not in existing]
    for name in missing:
        storage.write(f"{remote}/{name}", files[name])
    for name, content in files.items():
        if storage.read(f"{remote}/{name}")[0] != content:
            raise TaskError(f"{remote}/{name} differs from the built file; delete that folder, then deploy again.")
    return bool(missing)


def select(names: list[str] | None, jobs: dict[str, str], origin: str) -> dict[str, str]:
    """Select the products of named jobs of a release, all if none is named; ArgumentError for a job that it lacks."""
    for name in names or []:
        if name not in jobs:
            known = ", ".join(sorted(set(map(job_of, jobs))))
            raise ArgumentError(f"{origin} has no job '{name}'; it has {known or 'none'}.")
    return {name: fingerprint for name, fingerprint in jobs.items() if not names or job_of(name) in names}
