"""Build missing products of jobs: an image of a Python job; a bundle, a light image or an image of a Spark job."""

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.errors import TaskError
from common.handover import storage
from common.handover.job_toml import Job
from common.protocol import (
    LIBRARIES,
    ONE_ATTEMPT,
    bundle_arguments,
    conf_arguments,
    image,
    library_properties,
    light_product,
    spark_properties,
)
from tools.command_line import exit_on_task_error
from tools.packaging import base_image, sbom
from tools.packaging.archive import zip_archive
from tools.packaging.base_image import BASE_IMAGE
from tools.packaging.docker_client import docker
from tools.packaging.fingerprint import NODES, ROOT, Product, job_of, product, products, select_jobs
from tools.packaging.spark_jars import added_jars

DIST = ROOT / "dist"
RELEASE = DIST / "release.json"
BASES = DIST / "bases.json"  # base images of the last build, by name
UV = ROOT / ".tandem/uv/bin/uv"  # installed by make setup
CLUSTER = ["--master", "yarn", "--deploy-mode", "cluster"]
KINDS = ("bundle", "light", "image", "emr-image")
CODE = ("jobs/", "common/", "sources/")
SHOWN_LINES = 40  # of docker's output when a build fails
UNUSED = re.compile(
    r"bin/|botocore/data/(?!s3/|sts/)[^/]+/|boto3/(examples|data/(?!s3/)[^/]+)/|(.*/)?tests/"
)  # by jobs
# Python imports it from its path when it starts, and the path names the folder of the libraries.
SELECT_MACHINE = b"""import os
import platform
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), platform.machine()))
"""
ARGUMENTS = ["--lake", "LAKE", "--dag-id", "DAG", "--run-id", "RUN", "--task-id", "TASK", "--attempt", "1"]

console = Console(width=None if sys.stdout.isatty() else 120)


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", action="append", metavar="JOB", help="a job; all jobs if none is named")
    parser.add_argument(
        "--kind",
        choices=KINDS,
        help="of product; by default the image of a Python job, the bundle and the light image of a Spark job",
    )
    parser.add_argument("--base-image", default=BASE_IMAGE, metavar="NAME", help="the base of images")
    arguments = parser.parse_args()
    table = Table(title="Build products", title_justify="left")
    for heading in ("job", "kind", "fingerprint", "", "MB", "seconds"):
        table.add_column(heading, justify="right" if heading in ("MB", "seconds") else "left")
    for name in select_products(arguments.job, arguments.kind):
        started = time.monotonic()
        wanted = current_product(name, arguments.base_image)
        kind = arguments.kind or wanted.kind
        built, size = build_bundle(wanted) if kind == "bundle" else build_image(wanted, kind)
        record_build(wanted)
        seconds = f"{time.monotonic() - started:.1f}"
        state = "built" if built else "up to date"
        table.add_row(wanted.job.name, kind, wanted.fingerprint, state, f"{size / 1e6:.1f}", seconds)
    console.print(table)


def select_products(names: list[str] | None, kind: str | None) -> list[str]:
    """Return the names of the products of jobs, or of those from which a kind is built."""
    selected = select_jobs(names)
    if kind == "light" and names:
        return [light_product(name) for name in selected]  # also one that a job does not have, which is then reported
    return [name for name in products(names=selected) if kind is None or (kind == "light") == (name != job_of(name))]


def current_product(name: str, base_image_name: str = BASE_IMAGE) -> Product:
    """Return a product; the base of an image is pulled first, because its digest is in the fingerprint."""
    wanted = product(name, base_image=base_image_name)
    if wanted.kind != "bundle" and base_image.pull_if_missing(base_image_name):
        wanted = product(name, base_image=base_image_name)
    return wanted


def record_build(built: Product) -> None:
    """Record a product in dist/release.json as the last of its name, and the base of an image in dist/bases.json."""
    set_key(RELEASE, built.name, built.fingerprint)
    if built.kind != "bundle":
        set_key(BASES, built.base_image, built.base)


def set_key(file: Path, key: str, value: str) -> None:
    """Set a key of a JSON file; concurrent builds take turns."""
    with storage.locked(file):
        entries = json.loads(file.read_text()) if file.exists() else {}
        entries |= {key: value}
        storage.write(f"file://{file}", json.dumps(entries, indent=1, sort_keys=True).encode() + b"\n")


def folder(wanted: Product) -> Path:
    """Return the folder of a product: a bundle, or the build context of an image."""
    return DIST / wanted.name / wanted.fingerprint


def build_bundle(wanted: Product) -> tuple[bool, int]:
    """Build the bundle of a Spark job if it is missing; return True if it was built, and its size in bytes."""
    if wanted.kind != "bundle":
        raise TaskError(f"{wanted.job.name} is a Python job, expected a Spark job; build its image instead.")
    bundle = folder(wanted)
    missing = not bundle.exists()
    if missing:
        stage(bundle, bundle_files(wanted))
    return missing, sum(file.stat().st_size for file in bundle.iterdir())


def bundle_files(wanted: Product) -> dict[str, bytes]:
    """Return the files of a Spark bundle: code, the contents that its fingerprint hashes, libraries, spark-submit."""
    command = shlex.join(spark_submit(wanted.job, ".", CLUSTER, ARGUMENTS))
    files = {**code_files(wanted), "contents": wanted.contents, "submit.txt": command.encode() + b"\n"}
    return files | {LIBRARIES: zip_archive(libraries(wanted))} if wanted.job.requirements else files


def code_files(wanted: Product) -> dict[str, bytes]:
    """Return the program of a Spark job, and one zip with its description and all the code that it imports."""
    prefix = f"jobs/{wanted.job.name}/"
    code = {
        path.removeprefix(prefix): file.content
        for path, file in wanted.files.items()
        if path.startswith((prefix, "common/", "sources/"))
    }
    program = code.pop("main.py")
    code["fingerprint"] = mark(wanted)
    return {
        "main.py": program,
        "job.toml": code["job.toml"],
        "fingerprint": code["fingerprint"],
        "code.zip": zip_archive(code),
    }


def mark(wanted: Product) -> bytes:
    """Return the content of the file in which a running job reads its fingerprint."""
    return f"{wanted.fingerprint} {wanted.job.name}\n".encode()


def libraries(wanted: Product) -> dict[str, bytes]:
    """Return the files of the libraries in a Spark job's requirements, for the nodes of a cluster of any processors.

    Packages that differ between processors are in a folder for each, of which `sitecustomize.py` selects one.
    """
    by_machine = {machine: installed(wanted, platform) for machine, platform in NODES.items()}
    one, *others = by_machine.values()
    packages = {package for files in by_machine.values() for package in files}
    common = {package for package in packages if all(files.get(package) == one.get(package) for files in others)}
    files = {name: content for package in common for name, content in one[package].items()}
    for machine, of_machine in by_machine.items():
        for package in of_machine.keys() - common:
            files |= {f"{machine}/{name}": content for name, content in of_machine[package].items()}
    return files | {"sitecustomize.py": SELECT_MACHINE}


def installed(wanted: Product, platform: Sequence[str]) -> dict[str, dict[str, bytes]]:
    """Return the files of the libraries for a platform, by the first part of their names."""
    with tempfile.TemporaryDirectory() as target:
        install_libraries(wanted, target, platform)
        files = {path.relative_to(target): path for path in Path(target).rglob("*") if path.is_file()}
        # Programs and RECORD, which lists all files, name this machine's Python.
        packages: dict[str, dict[str, bytes]] = {}
        for inside, path in files.items():
            if path.name not in ("RECORD", ".lock") and not UNUSED.match(inside.as_posix()):
                packages.setdefault(inside.parts[0], {})[inside.as_posix()] = path.read_bytes()
        return packages


def install_libraries(wanted: Product, target: str, platform: Sequence[str] = ()) -> None:
    """Install a Spark job's requirements into a folder, as wheels for a platform, by default for this machine.

    TaskError if there is no such wheel, or its hash differs.
    """
    command = [str(UV), "pip", "install", "-q", "--python", sys.executable, "--target", target, *platform]
    command += ["--only-binary", ":all:", "--require-hashes", "-r", "-"]
    requirements = wanted.files["requirements.txt"].content
    process = subprocess.run(command, input=requirements.decode(), capture_output=True, text=True)
    if process.returncode:
        raise TaskError(f"{wanted.job.requirements} can't be installed; uv failed: {process.stderr.strip()}")


def spark_submit(job: Job, bundle: str, master: list[str], arguments: list[str]) -> list[str]:
    """Return the spark-submit of a bundle: options of the cluster manager, sizes of job.toml, arguments of the job."""
    conf = spark_properties(job.spark)
    libraries = bool(job.requirements) and master == CLUSTER
    if libraries:
        conf |= library_properties("spark.yarn.appMasterEnv")
    if master == CLUSTER:
        conf[ONE_ATTEMPT] = "1"
    options = [*master, "--name", job.name, *conf_arguments(conf)]
    return ["spark-submit", *options, *bundle_arguments(bundle, libraries), *arguments]


def stage(target: Path, files: dict[str, bytes]) -> None:
    """Create a folder with these files, atomically; one from a concurrent build stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as temporary:
        new = Path(temporary) / target.name
        for path, content in files.items():
            file = new / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        with storage.locked(target):
            if not target.exists():
                new.rename(target)


def build_image(wanted: Product, kind: str = "") -> tuple[bool, int]:
    """Build an image unless the engine has it on the same base; return True if built, and its size in bytes.

    From a bundle's files it is an image of the kind `image` or `emr-image`.
    """
    kind = kind or ("image" if wanted.kind == "bundle" else wanted.kind)
    if kind == "emr-image" and (wanted.kind != "bundle" or wanted.base_image == BASE_IMAGE):
        raise TaskError(
            "An emr-image needs a Spark job and an EMR release as its base; name both, as in make build KIND=emr-image "
            "JOB=ingest_events BASE_IMAGE=emr-serverless/spark/emr-…."
        )
    name = image(wanted.name, wanted.fingerprint)
    outdated = image_size(name) is None or label(name, "tandem.base") != wanted.base
    if outdated:
        described = [word for key, value in labels(wanted).items() for word in ("--label", f"{key}={value}")]
        target = ["--target", kind] if kind != "image" else []
        base = ["--build-arg", f"BASE_IMAGE={wanted.base_image}"]
        with console.status(f"building {name}"), tempfile.TemporaryDirectory() as temporary:
            context = Path(temporary) / "context"
            stage(context, context_files(wanted))
            process = docker("build", "--tag", name, *target, *base, *described, str(context))
        if process.returncode:
            print(*process.stderr.splitlines()[-SHOWN_LINES:], sep="\n", file=sys.stderr)
            raise TaskError(f"The image of {wanted.name} could not be built; docker's output is above.")
    if outdated or not sbom_file(wanted).exists():
        sbom.write(wanted, kind, sbom_file(wanted))
    return outdated, image_size(name) or 0


def sbom_file(wanted: Product) -> Path:
    """Return the file of the bill of materials of a product's image."""
    return folder(wanted).with_name(f"{wanted.fingerprint}.cdx.json")


def context_files(wanted: Product) -> dict[str, bytes]:
    """Return the build context of an image: the code below `app`, the other files next to it."""
    if wanted.kind == "bundle":
        other = {path: file.content for path, file in wanted.files.items() if not path.startswith(CODE)}
        jars = {f"spark-jars/{jar.name}": jar.read_bytes() for jar in added_jars()}
        return {**other, **jars, **{f"app/{path}": content for path, content in code_files(wanted).items()}}
    files = {f"app/{path}" if path.startswith(CODE) else path: file.content for path, file in wanted.files.items()}
    return files | {f"app/jobs/{wanted.job.name}/fingerprint": mark(wanted)}


def labels(wanted: Product) -> dict[str, str]:
    """Return the labels of an image."""
    revision = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        capture_output=True,
        text=True,
    )
    return {
        "tandem.job": wanted.job.name,
        "tandem.fingerprint": wanted.fingerprint,
        "tandem.base": wanted.base,
        "tandem.revision": revision.stdout.strip() or "unknown",
        "tandem.contracts": " ".join(wanted.contracts),
    }


def image_size(name: str) -> int | None:
    """Return the bytes of an image, None if the engine has none of that name; TaskError if no engine answers."""
    process = docker("image", "inspect", "--format", "{{.Size}}", name)
    if process.returncode and "No such image" not in process.stderr:
        raise TaskError(
            f"Docker does not answer ({process.stderr.strip()}); start an engine or name one in DOCKER_HOST."
        )
    return None if process.returncode else int(process.stdout)


def label(name: str, key: str) -> str:
    """Return the value of a label of an image of the engine."""
    return docker("image", "inspect", "--format", f'{{{{index .Config.Labels "{key}"}}}}', name).stdout.strip()


if __name__ == "__main__":
    main()
