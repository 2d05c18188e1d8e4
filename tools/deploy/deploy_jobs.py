"""Release jobs to an environment: build changed jobs, upload images and bundles, then let new runs use them.

An environment that promotes another one gets the products that run there, unchanged, without a build. A product whose
fingerprint is already there is verified, never rewritten. The release goes live last, by one conditional write in the
lake: a deployment that stops before it leaves the old release live, and the next one resumes where it stopped. Of two
concurrent deployments, the second to end fails. Airflow is updated after the switch; if that step is missed, the next
deployment makes up for it.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.errors import TaskError
from common.handover import job_toml, storage
from common.protocol import code_folder, image
from tools import environment
from tools.command_line import exit_on_task_error
from tools.deploy import releases
from tools.environment import Settings
from tools.packaging.build import build_bundle, build_image, current_product, folder, mark
from tools.packaging.fingerprint import Product, job_of, products, select_jobs
from tools.packaging.push import copy, pull, run_docker

Upload = Callable[[str, str], bool]  # of a product by its name and fingerprint; True if anything was missing
REGISTRY = "HOST[:PORT][/PREFIX]"

console = Console(width=None if sys.stdout.isatty() else 160)


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    parser.add_argument("--job", action="append", metavar="JOB", help="a job; all jobs if none is named")
    arguments = parser.parse_args()
    deploy(arguments.environment, arguments.job)


def deploy(name: str, names: list[str] | None) -> None:
    """Upload products to an environment and release them."""
    settings = environment.load(name)
    lake, registry = environment.lake(settings), environment.require(settings, "registry", REGISTRY)
    server = releases.connect(settings)
    live, tag = releases.current(lake, server)
    promotes = settings.get("promotes")
    if promotes:
        fingerprints, upload = plan_promotion(environment.load(promotes), names, lake, registry)
    else:
        fingerprints, upload = plan_build(names, lake, registry)
    table = upload_all(fingerprints, upload, f"Released to {name}")
    jobs = fingerprints if promotes and not names else live.jobs | fingerprints
    if jobs == live.jobs:
        corrected = tag is not None and releases.update_airflow(lake, server)
        console.print(table)
        console.print(f"{name} already runs {live} with these jobs.", highlight=False)
        if corrected:
            console.print(f"Airflow had another release, because a deployment was interrupted; new runs use {live}.")
        return
    release = releases.record(lake, jobs, live)
    releases.switch(lake, server, release, tag)
    console.print(table)
    console.print(f"New runs of {name} use {release}; before, they used {live}.", highlight=False)


def plan_promotion(
    source: Settings, names: list[str] | None, lake: str, registry: str
) -> tuple[dict[str, str], Upload]:
    """The fingerprints that another environment runs, and how to copy a product from there."""
    origin = releases.airflow_release(releases.connect(source))
    fingerprints = releases.select(names, origin.jobs, f"The release of {source.name}")
    console.print(f"promoting {origin} of {source.name}", highlight=False)
    source_lake = environment.lake(source)
    return fingerprints, lambda name, fingerprint: promote(
        name, fingerprint, source_lake, source["registry"], lake, registry
    )


def plan_build(names: list[str] | None, lake: str, registry: str) -> tuple[dict[str, str], Upload]:
    """The fingerprints of products of this checkout, and how to build and upload one."""
    wanted = {name: current_product(name) for name in products(names=select_jobs(names))}
    fingerprints = {name: product.fingerprint for name, product in wanted.items()}
    return fingerprints, lambda name, _: build_and_upload(wanted[name], lake, registry)


def upload_all(fingerprints: dict[str, str], upload: Upload, title: str) -> Table:
    """Upload products one after the other; return a table of them with durations."""
    table = Table(title=title, title_justify="left")
    for heading in ("product", "fingerprint", "", "seconds"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left", overflow="fold")
    for name, fingerprint in sorted(fingerprints.items()):
        started = time.monotonic()
        console.print(f"{name} {fingerprint}", highlight=False)
        state = "uploaded" if upload(name, fingerprint) else "up to date"
        table.add_row(name, fingerprint, state, f"{time.monotonic() - started:.1f}")
    return table


def build_and_upload(product: Product, lake: str, registry: str) -> bool:
    """Upload a product of this checkout, built if it is missing; True if anything was uploaded."""
    pushed = False
    if product.kind == "bundle":
        build_bundle(product)
        files = {file.name: file.read_bytes() for file in folder(product).iterdir()}
    else:
        remote = image(product.name, product.fingerprint, registry)
        if not pull(remote):
            build_image(product)
            copy(image(product.name, product.fingerprint), remote)
            pushed = True
        files = {"job.toml": product.files[f"jobs/{product.job.name}/job.toml"].content, "fingerprint": mark(product)}
    return releases.store(files, code_folder(lake, product.name, product.fingerprint)) or pushed


def promote(name: str, fingerprint: str, source: str, source_registry: str, lake: str, registry: str) -> bool:
    """Copy a product from one environment to another, unchanged; True if anything was copied."""
    origin_folder = code_folder(source, name, fingerprint)
    files = {file.uri.rpartition("/")[2]: storage.read(file.uri)[0] for file in storage.files(origin_folder)}
    pushed = False
    if name != job_of(name) or parse_job(name, files, origin_folder).engine == "python":
        origin, remote = image(name, fingerprint, source_registry), image(name, fingerprint, registry)
        if not pull(remote):
            run_docker("pull", origin)
            copy(origin, remote)
            pushed = True
    return releases.store(files, code_folder(lake, name, fingerprint)) or pushed


def parse_job(name: str, files: dict[str, bytes], uri: str) -> job_toml.Job:
    """Parse the job.toml of a product; TaskError if it has none."""
    if "job.toml" not in files:
        raise TaskError(f"{uri} has no job.toml of {name}, expected its product; release it there again.")
    with tempfile.TemporaryDirectory() as temporary:
        job_folder = Path(temporary) / name
        job_folder.mkdir()
        for file in ("job.toml", "fingerprint"):
            (job_folder / file).write_bytes(files[file])
        return job_toml.load(job_folder)


if __name__ == "__main__":
    main()
