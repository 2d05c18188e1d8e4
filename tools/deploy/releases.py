"""Releases of an environment: which one is in place, what each came after, and what Airflow is told.

releases/current.json in the lake is the release in place; only a conditional write replaces it, because Airflow's
variables have none. The variable `release` is what runs take, {job: fingerprint}, and its description the number: a
copy, written after. releases/<number>.json keeps what a release replaced. It is written first, so a deployment that is
stopped before the switch leaves a number that no one uses, and one that is stopped after it leaves an Airflow that the
next deployment or rollback brings up to date.
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
from tools.airflow_api import Airflow
from tools.environment import Settings, needed

VARIABLE = "release"
PATH = f"/api/v2/variables/{VARIABLE}"
TURNS = 10  # of telling Airflow, while other deployments tell it, too


@dataclass(frozen=True)
class Release:
    """What a release is made of, {job: fingerprint}; number 0 is none, or one that nobody numbered."""

    number: int
    jobs: dict[str, str]

    def __str__(self) -> str:
        return (
            f"release {self.number}" if self.number else "what was there without a number" if self.jobs else "nothing"
        )


def airflow(said: Settings) -> Airflow:
    """The Airflow of an environment, signed in to as AIRFLOW_USERNAME with AIRFLOW_PASSWORD if they are set.

    TaskError if it does not answer or does not let us in.
    """
    url = needed(said, "airflow", "https://HOST").rstrip("/")
    user, password = os.environ.get("AIRFLOW_USERNAME"), os.environ.get("AIRFLOW_PASSWORD")
    body = {"username": user, "password": password} if user else None
    try:
        return Airflow(url, Airflow(url, "").ask("/auth/token", body)["access_token"])
    except urllib.error.HTTPError as error:
        raise TaskError(
            f"The Airflow of {said.name} at {url} refuses to let us in ({error}); name who deploys in AIRFLOW_USERNAME "
            "and AIRFLOW_PASSWORD."
        ) from None
    except (OSError, ValueError) as error:
        raise TaskError(
            f"The Airflow of {said.name} does not answer at {url} ({error}); start it, or correct {said.file}."
        ) from None


def current(lake: str, server: Airflow) -> tuple[Release, str | None]:
    """The release in place, and the tag by which `switch` knows it again.

    That is what Airflow has, without a tag, in a lake that keeps no current release yet.
    """
    try:
        content, tag = storage.read(current_uri(lake))
    except FileNotFoundError:
        return running(server), None
    document = json.loads(content)
    return Release(document["number"], document["jobs"]), tag


def running(server: Airflow) -> Release:
    """The release that the next run of any pipeline takes."""
    try:
        variable = server.ask(PATH)
    except OSError as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 404:
            return Release(0, {})
        raise TaskError(f"Airflow at {server.url} does not show its variable '{VARIABLE}' ({error}).") from None
    number = re.match(r"release (\d+)", variable.get("description") or "")
    return Release(int(number[1]) if number else 0, json.loads(variable["value"]))


def record(lake: str, jobs: dict[str, str], before: Release) -> Release:
    """Number a release and keep what it is to replace; nothing runs it yet."""
    document = {"jobs": jobs, "before": {"number": before.number, "jobs": before.jobs}}
    content = json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
    there = [re.search(r"/(\d+)\.json$", file.uri) for file in storage.files(f"{lake}/releases")]
    number = max([before.number, *(int(found[1]) for found in there if found)])
    while True:
        number += 1
        try:
            storage.replace(document_uri(lake, number), content, None)
            return Release(number, jobs)
        except storage.Conflict:  # someone else deploys, too
            continue


def before(lake: str, release: Release) -> Release:
    """What a release replaced; InputError if that is not known."""
    if not release.number:
        raise InputError("The release in place has no number, so what it replaced is not known; deploy another one.")
    try:
        kept = json.loads(storage.read(document_uri(lake, release.number))[0])["before"]
    except FileNotFoundError:
        raise InputError(f"{document_uri(lake, release.number)} is not there, expected what it replaced.") from None
    if not kept["jobs"]:
        raise InputError(f"Release {release.number} is the first one; there is none to return to.")
    return Release(**kept)


def document_uri(lake: str, number: int) -> str:
    return f"{lake}/releases/{number:06}.json"


def current_uri(lake: str) -> str:
    return f"{lake}/releases/current.json"


def switch(lake: str, server: Airflow, to: Release, tag: str | None) -> None:
    """Put a release in place if the one that was seen still is, then tell Airflow; TaskError if another is by now."""
    document = {"number": to.number, "jobs": to.jobs, "deployment": uuid.uuid4().hex}  # no two writes are the same
    try:
        storage.replace(current_uri(lake), json.dumps(document, indent=1, sort_keys=True).encode() + b"\n", tag)
    except storage.Conflict:
        there, _ = current(lake, server)
        raise TaskError(
            f"Another deployment put {there} in place meanwhile, so {to} is not released; look at it, then run this "
            "again."
        ) from None
    tell_airflow(lake, server)


def tell_airflow(lake: str, server: Airflow) -> bool:
    """Make Airflow's variable the release in place, until it is so; whether it was another one.

    A deployment that told Airflow of an older release after a newer one was told of finds that here, and corrects it.
    """
    for turn in range(TURNS):
        wanted, there = current(lake, server)[0], running(server)
        if wanted == there:
            return turn > 0
        tell(server, wanted, there)
    raise TaskError(
        f"Airflow at {server.url} still has {there} after {TURNS} tries, expected {wanted}; run this again."
    )


def tell(server: Airflow, release: Release, there: Release) -> None:
    """Write Airflow's variable."""
    body: dict[str, Any] = {
        "key": VARIABLE,
        "value": json.dumps(release.jobs, sort_keys=True),
        "description": str(release),
    }
    try:
        if there == Release(0, {}):
            server.ask("/api/v2/variables", body)
        else:
            server.ask(PATH, body, "PATCH")
    except OSError as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 409:  # made by another deployment meanwhile
            return
        raise TaskError(
            f"{release} is in place, but Airflow at {server.url} does not take it ({error}), so new runs take {there}; "
            "run this again."
        ) from None


def store(files: dict[str, bytes], remote: str) -> bool:
    """Write the files that a folder lacks, then read all of them back; whether any was written."""
    there = {file.uri for file in storage.files(remote)}
    missing = [name for name in sorted(files) if f"{remote}/{name}" not in there]
    for name in missing:
        storage.write(f"{remote}/{name}", files[name])
    for name, content in files.items():
        if storage.read(f"{remote}/{name}")[0] != content:
            raise TaskError(f"{remote}/{name} is not what was built; delete that folder, then deploy again.")
    return bool(missing)


def chosen(names: list[str] | None, jobs: dict[str, str], where: str) -> dict[str, str]:
    """The jobs of a release that were named, all of them if none was; ArgumentError for one that it lacks."""
    for name in names or []:
        if name not in jobs:
            raise ArgumentError(f"{where} has no job '{name}'; it has {', '.join(sorted(jobs)) or 'none'}.")
    return {name: jobs[name] for name in names} if names else jobs
