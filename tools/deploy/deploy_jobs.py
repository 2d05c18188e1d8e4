"""Release jobs to an environment: build what changed, bring images and bundles there, then let new runs take them.

An environment that promotes another one gets what runs there, as it is, without a build. What lies under a fingerprint
already is read, never written again. The release is put in place last, by one conditional write in the lake: whoever
stops this before leaves the old release in place, and running it again resumes where it stopped. Of two deployments at
once, the second to end fails. Airflow is told after the switch; if that is missed, the next deployment makes up for it.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.errors import TaskError
from common.handover import job_toml, storage
from common.protocol import code_folder, image
from tools import environment
from tools.deploy import releases
from tools.packaging.build import build_bundle, build_image, current, folder, mark, named
from tools.packaging.fingerprint import Product
from tools.packaging.push import call, copy, pulled

console = Console(width=None if sys.stdout.isatty() else 160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    parser.add_argument("--job", action="append", metavar="JOB", help="a job, all of them if none is named")
    arguments = parser.parse_args()
    try:
        deploy(arguments.environment, arguments.job)
    except TaskError as error:
        sys.exit(str(error))


def deploy(name: str, names: list[str] | None) -> None:
    """Bring products to an environment and release them."""
    said = environment.load(name)
    lake, registry = environment.lake(said), environment.needed(said, "registry", "HOST[:PORT][/PREFIX]")
    server = releases.airflow(said)
    seen, tag = releases.current(lake, server)
    table = Table(title=f"Released to {name}", title_justify="left")
    for heading in ("job", "fingerprint", "", "seconds"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left", overflow="fold")
    if said.get("promotes"):
        source = environment.load(said["promotes"])
        there = releases.running(releases.airflow(source))
        wanted = releases.chosen(names, there.jobs, f"The release of {source.name}")
        console.print(f"promoting {there} of {source.name}", highlight=False)
    else:
        built = {each: current(each) for each in named(names)}
        wanted = {each: found.fingerprint for each, found in built.items()}
    for each, fingerprint in sorted(wanted.items()):
        started = time.monotonic()
        console.print(f"{each} {fingerprint}", highlight=False)
        if said.get("promotes"):
            came = promote(each, fingerprint, environment.lake(source), source["registry"], lake, registry)
        else:
            came = bring(built[each], lake, registry)
        table.add_row(each, fingerprint, "brought" if came else "there already", f"{time.monotonic() - started:.1f}")
    jobs = wanted if said.get("promotes") and not names else seen.jobs | wanted
    if jobs == seen.jobs:
        told = tag is not None and releases.tell_airflow(lake, server)
        console.print(table)
        console.print(f"{name} has {seen} in place, which is the same.", highlight=False)
        if told:
            console.print(f"Airflow had another release, because a deployment was interrupted; new runs take {seen}.")
        return
    release = releases.record(lake, jobs, seen)
    releases.switch(lake, server, release, tag)
    console.print(table)
    console.print(f"New runs of {name} take {release}; it had {seen}.", highlight=False)


def bring(wanted: Product, lake: str, registry: str) -> bool:
    """Bring a product of this checkout, built if it is not there; whether anything had to be brought."""
    came = False
    if wanted.job.engine == "python":
        remote = image(wanted.job.name, wanted.fingerprint, registry)
        if not pulled(remote):
            build_image(wanted)
            copy(image(wanted.job.name, wanted.fingerprint), remote)
            came = True
        files = {"job.toml": wanted.parts[f"jobs/{wanted.job.name}/job.toml"].content, "fingerprint": mark(wanted)}
    else:
        build_bundle(wanted)
        files = {file.name: file.read_bytes() for file in folder(wanted).iterdir()}
    return releases.store(files, code_folder(lake, wanted.job.name, wanted.fingerprint)) or came


def promote(name: str, fingerprint: str, source: str, source_registry: str, lake: str, registry: str) -> bool:
    """Bring a product from one environment to another as it is; whether anything had to be brought."""
    place = code_folder(source, name, fingerprint)
    files = {file.uri.rpartition("/")[2]: storage.read(file.uri)[0] for file in storage.files(place)}
    came = False
    if described(name, files, place).engine == "python":
        origin, remote = image(name, fingerprint, source_registry), image(name, fingerprint, registry)
        if not pulled(remote):
            call("pull", origin)
            copy(origin, remote)
            came = True
    return releases.store(files, code_folder(lake, name, fingerprint)) or came


def described(name: str, files: dict[str, bytes], where: str) -> job_toml.Job:
    """A job as the job.toml of its product says it; TaskError if there is none."""
    if "job.toml" not in files:
        raise TaskError(f"{where} has no job.toml of {name}, expected its product; release it there again.")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / name
        place.mkdir()
        for file in ("job.toml", "fingerprint"):
            (place / file).write_bytes(files[file])
        return job_toml.load(place)


if __name__ == "__main__":
    main()
