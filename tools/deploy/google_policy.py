"""The policies of Google Cloud for tasks: of managed folders of the lake's bucket, and of Bigtable's tables.

Google attaches policies to resources, so one document has the bindings of all accounts. Each folder that tasks read or
write is a managed folder. Its policy covers the objects below it, and listing, which a condition on the names of
objects would refuse. A right on parts of a folder, such as the hand-overs of one task in all runs, has a condition.

An account may replace an object only if it may delete it, so writers may delete what they write.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from common.delivery.store import table_name
from common.errors import ArgumentError
from common.protocol import REPORT_TASK
from tools.deploy.pipelines import TaskOfPipeline
from tools.deploy.rights import MANIFESTS, folders, job_of, products, select

READ, LIST, WRITE, TABLE = "tandem.read", "tandem.list", "tandem.write", "tandem.table"  # custom roles of the project
PERMISSIONS = {
    READ: ["storage.objects.get"],
    LIST: ["storage.objects.list"],
    WRITE: ["storage.objects.create", "storage.objects.delete", "storage.objects.get"],
    TABLE: ["bigtable.tables.mutateRows", "bigtable.tables.readRows"],
}
MAX_TERMS = 13  # of a condition: Google allows 12 logical operators
Bindings = dict[tuple[str, str, str], set[str]]  # members by resource, role and condition
ACCOUNT = re.compile("[a-z][a-z0-9-]{4,28}[a-z0-9]")  # Google's rule for the names of service accounts


def accounts(known: list[TaskOfPipeline], job: str | None, pipeline: str | None) -> dict[str, list[TaskOfPipeline]]:
    """Return the tasks of each service account: of one, or without job and pipeline of all jobs and clusters.

    A job's account has its name, with hyphens; that of the nodes of a pipeline's clusters is `nodes-<pipeline>`.
    """
    if job or pipeline:
        return {account(job or f"nodes-{pipeline}"): select(known, job, pipeline)}
    on_clusters = {task.pipeline for task in known if job_of(task).engine == "spark"}
    found = {account(task.job): select(known, task.job, None) for task in known}
    return found | {account(f"nodes-{name}"): select(known, None, name) for name in on_clusters}


def account(name: str) -> str:
    """Return the service account of a job or of nodes; ArgumentError if Google takes no account of that name."""
    hyphenated = name.replace("_", "-")
    if not ACCOUNT.fullmatch(hyphenated):
        raise ArgumentError(
            f"'{hyphenated}' can't be a service account of Google, expected 6 to 30 letters, digits and hyphens; "
            "rename the job or the pipeline."
        )
    return hyphenated


def policies(
    by_account: Mapping[str, list[TaskOfPipeline]],
    known: list[TaskOfPipeline],
    lake: str,
    tables: str,
    project: str,
) -> dict[str, Any]:
    """Return the custom roles, the accounts, and the policies of the folders of a lake on gs:// and of its tables."""
    on_folders: Bindings = {}
    on_tables: Bindings = {}
    for name, tasks in by_account.items():
        member = f"serviceAccount:{name}@{project}.iam.gserviceaccount.com"
        read, written, _ = folders(tasks)
        manifests = MANIFESTS if any(task.job == REPORT_TASK for task in tasks) else []
        allow(on_folders, member, READ, [*(f"{folder}/" for folder in read), *manifests], lake)
        allow(on_folders, member, WRITE, [f"{folder}/" for folder in written], lake)
        for table in {table_name(tables, contract) for task in tasks for contract in products(task, known)}:
            bind(on_tables, table, TABLE, member)
    return {
        "roles": {
            role: {"title": role, "stage": "GA", "includedPermissions": permissions}
            for role, permissions in PERMISSIONS.items()
        },
        "accounts": sorted(by_account),
        "folders": rendered(on_folders, project),
        "tables": rendered(on_tables, project),
    }


def allow(bindings: Bindings, member: str, role: str, patterns: Iterable[str], lake: str) -> None:
    """Allow a member to use objects whose names begin with one of these patterns, and to list their folders."""
    parts: dict[str, list[str]] = {}
    for pattern in sorted(patterns):
        folder, star, _ = pattern.partition("*")
        bind(bindings, f"{lake}/{folder}", LIST, member)
        if star:
            parts.setdefault(folder, []).append(term(pattern, lake))
        else:
            bind(bindings, f"{lake}/{folder}", role, member)
    for folder, terms in parts.items():
        for start in range(0, len(terms), MAX_TERMS):
            bind(bindings, f"{lake}/{folder}", role, member, " || ".join(terms[start : start + MAX_TERMS]))


def bind(bindings: Bindings, resource: str, role: str, member: str, condition: str = "") -> None:
    bindings.setdefault((resource, role, condition), set()).add(member)


def term(pattern: str, lake: str) -> str:
    """Return the condition on the name of an object that fits a pattern: FOLDER/*/FOLDER/ or FOLDER/*/FILE."""
    head, _, tail = pattern.partition("*")
    if not tail.endswith("/"):
        return f'resource.name.endsWith("{tail}")'
    bucket, _, prefix = f"{lake}/".removeprefix("gs://").partition("/")
    return f'resource.name.extract("projects/_/buckets/{bucket}/objects/{prefix}{head}{{any}}{tail}") != ""'


def rendered(bindings: Bindings, project: str) -> dict[str, dict[str, Any]]:
    """Return the policy of each resource."""
    found: dict[str, dict[str, Any]] = {}
    for (resource, role, condition), members in sorted(bindings.items()):
        binding: dict[str, Any] = {"role": f"projects/{project}/roles/{role}", "members": sorted(members)}
        if condition:
            binding["condition"] = {"title": f"{role} of parts", "expression": condition}
        found.setdefault(resource, {"version": 3, "bindings": []})["bindings"].append(binding)
    return found
