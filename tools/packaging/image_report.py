"""What images of jobs weigh, by layer and by package, how fast they start, and what of them is never imported."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from common.errors import TaskError
from common.protocol import image
from tools.packaging import sbom
from tools.packaging.base_image import BASE_IMAGE
from tools.packaging.build import console, image_size, materials, named
from tools.packaging.docker_client import docker
from tools.packaging.fingerprint import Product, product

PROBE = Path(__file__).with_name("image_probe.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", action="append", metavar="JOB", help="a Python job, all of them if none is named")
    parser.add_argument("--base-image", default=BASE_IMAGE, metavar="NAME", help="what images are built upon")
    arguments = parser.parse_args()
    try:
        wanted = [product(name, base_image=arguments.base_image) for name in named(arguments.job)]
        names = {
            part.job.name: image(part.job.name, part.fingerprint) for part in wanted if part.job.engine == "python"
        }
        probes = {job: probe(name) for job, name in names.items()}
        base = size(arguments.base_image)
        bills = {part.job.name: bill(part) for part in wanted if part.job.engine == "python"}
    except TaskError as error:
        sys.exit(str(error))
    summary = headed(
        "Images",
        "job",
        "MB",
        "more than base",
        "python",
        "--help",
        "imports",
        "modules",
        "MB never imported",
        "components",
    )
    for job, found in probes.items():
        total = size(names[job])
        times = [f"{found[what]:.2f} s" for what in ("python_seconds", "help_seconds", "import_seconds")]
        unused = sum(package["unused"] for package in found["packages"].values())
        summary.add_row(
            *(job, megabytes(total), megabytes(total - base), *times, str(found["modules"]), megabytes(unused)),
            str(len(bills[job]["components"])),
        )
    console.print(summary)
    console.print("Components with their versions: dist/<job>/<fingerprint>.cdx.json (CycloneDX).", markup=False)
    for job, found in probes.items():
        console.print(layers(job, names[job]), packages(job, found), never_imported(job, found))


def probe(name: str) -> dict[str, Any]:
    """What the probe says that runs inside an image; TaskError if there is none, or it does not start."""
    if image_size(name) is None:
        raise TaskError(f"There is no image {name}; build it first: make build.")
    options = ["--rm", "--interactive", "--network", "none", "--env", "AWS_DEFAULT_REGION=eu-west-1"]
    told = docker("run", *options, "--entrypoint", "python", name, "-", stdin=PROBE.read_text())
    if told.returncode:
        raise TaskError(f"{name} does not start: {(told.stderr.strip() or 'no message').splitlines()[-1]}")
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def bill(wanted: Product) -> dict[str, Any]:
    """The bill of materials of an image, written if the image was built elsewhere."""
    file = materials(wanted)
    if not file.exists():
        sbom.write(wanted, "image", file)
    document: dict[str, Any] = json.loads(file.read_text())
    return document


def size(name: str) -> int:
    """The bytes of an image; TaskError if the engine has none of that name."""
    found = image_size(name)
    if found is None:
        raise TaskError(f"There is no image {name}; pull it, or name another with --base-image.")
    return found


def layers(job: str, name: str) -> Table:
    table = headed(f"{job}: layers", "MB", "made by")
    for line in docker("history", "--no-trunc", "--format", "{{.Size}}\t{{.CreatedBy}}", name).stdout.splitlines():
        amount, made_by = line.split("\t")
        if amount != "0B":
            table.add_row(amount.removesuffix("MB"), " ".join(made_by.split())[:90] or "the base image")
    return table


def packages(job: str, found: dict[str, Any]) -> Table:
    table = headed(f"{job}: packages", "package", "MB", "of that never imported")
    for name, package in sorted(found["packages"].items(), key=lambda item: -item[1]["bytes"]):
        table.add_row(name, megabytes(package["bytes"]), megabytes(package["unused"]))
    return table


def never_imported(job: str, found: dict[str, Any]) -> Table:
    table = headed(f"{job}: the largest of what is never imported", "where", "MB")
    for where, amount in found["unused"].items():
        table.add_row(where, megabytes(amount))
    return table


def headed(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("job", "package", "where", "made by") else "right")
    return table


def megabytes(amount: int) -> str:
    return f"{amount / 1e6:.1f}"


if __name__ == "__main__":
    main()
