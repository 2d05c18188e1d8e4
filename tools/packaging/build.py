"""Build what is missing of jobs' build products: an image of a Python job, a bundle or an image of a Spark job."""

import argparse
import io
import json
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.errors import TaskError
from common.handover import storage
from common.handover.job_toml import Job
from common.protocol import bundle_arguments, image, nearest
from tools.packaging import base_image, sbom
from tools.packaging.base_image import BASE_IMAGE
from tools.packaging.docker_client import docker
from tools.packaging.fingerprint import NODES, ROOT, Product, jobs, product
from tools.packaging.s3_jars import added_jars

DIST = ROOT / "dist"
RELEASE = DIST / "release.json"
BASES = DIST / "bases.json"  # base images by name, as the last build used them
UV = ROOT / ".tandem/uv/bin/uv"  # make setup puts it there
LIBRARIES = "libraries.zip"
CLUSTER = ["--master", "yarn", "--deploy-mode", "cluster"]
KINDS = ("bundle", "image", "emr-image")
CODE = ("jobs/", "common/")
SHOWN_LINES = 40  # of what docker says when it can't build
ARGUMENTS = ["--lake", "LAKE", "--dag-id", "DAG", "--run-id", "RUN", "--task-id", "TASK", "--attempt", "1"]

console = Console(width=None if sys.stdout.isatty() else 120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", action="append", metavar="JOB", help="a job, all of them if none is named")
    parser.add_argument(
        "--kind", choices=KINDS, help="of product: an image of a Python job, a bundle of a Spark job if absent"
    )
    parser.add_argument("--base-image", default=BASE_IMAGE, metavar="NAME", help="what images are built upon")
    arguments = parser.parse_args()
    table = Table(title="Build products", title_justify="left")
    for heading in ("job", "kind", "fingerprint", "", "MB", "seconds"):
        table.add_column(heading, justify="right" if heading in ("MB", "seconds") else "left")
    try:
        for name in named(arguments.job):
            started = time.monotonic()
            wanted = current(name, arguments.base_image)
            kind = arguments.kind or ("image" if wanted.job.engine == "python" else "bundle")
            made, size = build_bundle(wanted) if kind == "bundle" else build_image(wanted, kind)
            note_release(wanted)
            seconds = f"{time.monotonic() - started:.1f}"
            state = "built" if made else "there already"
            table.add_row(name, kind, wanted.fingerprint, state, f"{size / 1e6:.1f}", seconds)
    except TaskError as error:
        sys.exit(str(error))
    console.print(table)


def named(names: list[str] | None) -> list[str]:
    """The jobs that were named, all of them if none was; TaskError for an unknown one."""
    known = jobs()
    for name in names or []:
        if name not in known:
            raise TaskError(f"There is no job '{name}'{nearest(name, known)}.")
    return names or known


def current(name: str, base_image_name: str = BASE_IMAGE) -> Product:
    """The product of a job; a base that its image needs is pulled first, because its digest is in the fingerprint."""
    wanted = product(name, base_image=base_image_name)
    if wanted.job.engine == "python" and base_image.fetch(base_image_name):
        wanted = product(name, base_image=base_image_name)
    return wanted


def note_release(built: Product) -> None:
    """Note a product in dist/release.json as its job's last one, and the base of an image in dist/bases.json."""
    note(RELEASE, built.job.name, built.fingerprint)
    if built.job.engine == "python":
        note(BASES, built.base_image, built.base)


def note(file: Path, key: str, value: str) -> None:
    """Set a key of a JSON file; builds that run at once do so one after the other."""
    with storage.locked(file):
        noted = json.loads(file.read_text()) if file.exists() else {}
        noted |= {key: value}
        storage.write(f"file://{file}", json.dumps(noted, indent=1, sort_keys=True).encode() + b"\n")


def folder(wanted: Product) -> Path:
    """The folder of a product: a bundle, or the files that an image is built from."""
    return DIST / wanted.job.name / wanted.fingerprint


def build_bundle(wanted: Product) -> tuple[bool, int]:
    """Make the bundle of a Spark job if it is not there; whether it was made, its size in bytes."""
    if wanted.job.engine != "spark":
        raise TaskError(f"{wanted.job.name} is a Python job, expected a Spark job; what it becomes is an image.")
    place = folder(wanted)
    made = not place.exists()
    if made:
        stage(place, bundle_files(wanted))
    return made, sum(file.stat().st_size for file in place.iterdir())


def bundle_files(wanted: Product) -> dict[str, bytes]:
    """The files of a Spark bundle: its code, what its fingerprint is the hash of, its libraries, its spark-submit."""
    command = shlex.join(spark_submit(wanted.job, ".", CLUSTER, ARGUMENTS))
    files = {**code_files(wanted), "contents": wanted.contents, "submit.txt": command.encode() + b"\n"}
    return files | {LIBRARIES: packed(libraries(wanted))} if wanted.job.requirements else files


def code_files(wanted: Product) -> dict[str, bytes]:
    """The program of a Spark job, and one zip with all the code it imports and what describes it."""
    own = f"jobs/{wanted.job.name}/"
    code = {
        path.removeprefix(own): part.content for path, part in wanted.parts.items() if path.startswith((own, "common/"))
    }
    program = code.pop("main.py")
    code["fingerprint"] = mark(wanted)
    return {
        "main.py": program,
        "job.toml": code["job.toml"],
        "fingerprint": code["fingerprint"],
        "code.zip": packed(code),
    }


def mark(wanted: Product) -> bytes:
    """What a job at work reads about the product it runs from."""
    return f"{wanted.fingerprint} {wanted.job.name}\n".encode()


def packed(files: dict[str, bytes]) -> bytes:
    """A zip with the same bytes for the same files: no times, one order, and no compression, which differs by zlib."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, content in sorted(files.items()):
            entry = zipfile.ZipInfo(path)  # of 1980
            entry.create_system = 3  # Unix
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def libraries(wanted: Product) -> dict[str, bytes]:
    """The files of the libraries that a Spark job's requirements name, for the nodes of a cluster."""
    with tempfile.TemporaryDirectory() as place:
        install_libraries(wanted, place, NODES)
        files = {path.relative_to(place): path for path in Path(place).rglob("*") if path.is_file()}
        # Programs, and what lists them, name this machine's Python.
        return {
            inside.as_posix(): path.read_bytes()
            for inside, path in files.items()
            if path.name not in ("RECORD", ".lock") and inside.parts[0] != "bin"
        }


def install_libraries(wanted: Product, place: str, platform: Sequence[str] = ()) -> None:
    """Install what a Spark job's requirements name into a folder, as wheels for a platform, this machine's if absent.

    TaskError if there is no such wheel, or one with another hash.
    """
    command = [str(UV), "pip", "install", "-q", "--python", sys.executable, "--target", place, *platform]
    command += ["--only-binary", ":all:", "--require-hashes", "-r", "-"]
    requirements = wanted.parts["requirements.txt"].content
    process = subprocess.run(command, input=requirements.decode(), capture_output=True, text=True)
    if process.returncode:
        raise TaskError(f"{wanted.job.requirements} can't be installed, says uv: {process.stderr.strip()}")


def spark_submit(job: Job, bundle: str, where: list[str], arguments: list[str]) -> list[str]:
    """The spark-submit of a bundle at a place: on which cluster, with the sizes that job.toml asks for."""
    sizes = {
        "spark.driver.memory": job.spark.get("driver_memory"),
        "spark.executor.memory": job.spark.get("executor_memory"),
        "spark.executor.cores": job.spark.get("executor_cores"),
    }
    conf = {name: value for name, value in sizes.items() if value} | job.spark.get("conf", {})
    libraries = bool(job.requirements) and where == CLUSTER
    if libraries:  # unpacked in the working folder of each process
        conf |= {f"{process}.PYTHONPATH": "libraries" for process in ("spark.yarn.appMasterEnv", "spark.executorEnv")}
    if where == CLUSTER:
        conf |= {"spark.yarn.maxAppAttempts": "1"}  # YARN would start a driver that failed once more, unasked
    options = [part for name, value in conf.items() for part in ("--conf", f"{name}={value}")]
    return ["spark-submit", *where, "--name", job.name, *options, *bundle_arguments(bundle, libraries), *arguments]


def stage(place: Path, files: dict[str, bytes]) -> None:
    """Make a folder that holds these files, atomically; one that another build made meanwhile stays."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as temporary:
        new = Path(temporary) / place.name
        for path, content in files.items():
            file = new / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        with storage.locked(place):
            if not place.exists():
                new.rename(place)


def build_image(wanted: Product, kind: str = "image") -> tuple[bool, int]:
    """Build the image of a job if the engine has none upon the same base; whether it was built, its size in bytes."""
    if kind == "emr-image" and (wanted.job.engine != "spark" or wanted.base_image == BASE_IMAGE):
        raise TaskError(
            "An emr-image is that of a Spark job upon an EMR release; name both, as in make build KIND=emr-image "
            "JOB=ingest_events BASE_IMAGE=emr-serverless/spark/emr-…."
        )
    name = image(wanted.job.name, wanted.fingerprint)
    made = image_size(name) is None or label(name, "tandem.base") != wanted.base
    if made:
        said = [part for key, value in labels(wanted).items() for part in ("--label", f"{key}={value}")]
        target = ["--target", kind] if kind != "image" else []
        base = ["--build-arg", f"BASE_IMAGE={wanted.base_image}"]
        with console.status(f"building {name}"), tempfile.TemporaryDirectory() as temporary:
            place = Path(temporary) / "context"
            stage(place, context_files(wanted))
            process = docker("build", "--tag", name, *target, *base, *said, str(place))
        if process.returncode:
            print(*process.stderr.splitlines()[-SHOWN_LINES:], sep="\n", file=sys.stderr)
            raise TaskError(f"The image of {wanted.job.name} could not be built; what docker says about it is above.")
    if made or not materials(wanted).exists():
        sbom.write(wanted, kind, materials(wanted))
    return made, image_size(name) or 0


def materials(wanted: Product) -> Path:
    """The file of the bill of materials of a product's image."""
    return folder(wanted).with_name(f"{wanted.fingerprint}.cdx.json")


def context_files(wanted: Product) -> dict[str, bytes]:
    """The files that an image is built from: the code below `app`, the others beside it."""
    if wanted.job.engine == "spark":
        beside = {
            path: part.content for path, part in wanted.parts.items() if not path.startswith(("jobs/", "common/"))
        }
        jars = {f"s3-jars/{jar.name}": jar.read_bytes() for jar in added_jars()}
        return {**beside, **jars, **{f"app/{path}": content for path, content in code_files(wanted).items()}}
    files = {f"app/{path}" if path.startswith(CODE) else path: part.content for path, part in wanted.parts.items()}
    return files | {f"app/jobs/{wanted.job.name}/fingerprint": mark(wanted)}


def labels(wanted: Product) -> dict[str, str]:
    """What an image says about itself."""
    described = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        capture_output=True,
        text=True,
    )
    return {
        "tandem.job": wanted.job.name,
        "tandem.fingerprint": wanted.fingerprint,
        "tandem.base": wanted.base,
        "tandem.revision": described.stdout.strip() or "unknown",
        "tandem.contracts": " ".join(wanted.contracts),
    }


def image_size(name: str) -> int | None:
    """The bytes of an image that the engine has, None if it has none of that name; TaskError if no engine answers."""
    told = docker("image", "inspect", "--format", "{{.Size}}", name)
    if told.returncode and "No such image" not in told.stderr:
        raise TaskError(f"Docker does not answer ({told.stderr.strip()}); start an engine or name one in DOCKER_HOST.")
    return None if told.returncode else int(told.stdout)


def label(name: str, key: str) -> str:
    """What an image that the engine has says about itself."""
    return docker("image", "inspect", "--format", f'{{{{index .Config.Labels "{key}"}}}}', name).stdout.strip()


if __name__ == "__main__":
    main()
