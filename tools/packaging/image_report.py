"""Report sizes of images without Spark by layer and package, start times, and files that are never imported."""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.table import Table

from common.errors import TaskError
from common.protocol import image
from tools.command_line import exit_on_task_error
from tools.packaging import sbom
from tools.packaging.base_image import BASE_IMAGE
from tools.packaging.build import console, image_size, sbom_file
from tools.packaging.docker_client import docker
from tools.packaging.fingerprint import Product, product, products, select_jobs

PROBE = Path(__file__).with_name("image_probe.py")


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", action="append", metavar="JOB", help="a job; all jobs if none is named")
    parser.add_argument("--base-image", default=BASE_IMAGE, metavar="NAME", help="the base of images")
    arguments = parser.parse_args()
    built = [product(name, base_image=arguments.base_image) for name in products(names=select_jobs(arguments.job))]
    wanted = {each.name: each for each in built if each.kind != "bundle"}
    names = {name: image(name, each.fingerprint) for name, each in wanted.items()}
    probes = {job: probe(name) for job, name in names.items()}
    base = size(arguments.base_image)
    bills = {job: bill(each) for job, each in wanted.items()}
    summary = table_with(
        "Images",
        "job",
        "MB",
        "above base",
        "python",
        "--help",
        "imports",
        "modules",
        "MB never imported",
        "components",
    )
    for job, report in probes.items():
        total = size(names[job])
        times = [f"{report[key]:.2f} s" for key in ("python_seconds", "help_seconds", "import_seconds")]
        unused = sum(package["unused"] for package in report["packages"].values())
        summary.add_row(
            *(job, megabytes(total), megabytes(total - base), *times, str(report["modules"]), megabytes(unused)),
            str(len(bills[job]["components"])),
        )
    console.print(summary)
    console.print("Components with their versions: dist/<job>/<fingerprint>.cdx.json (CycloneDX).", markup=False)
    for job, report in probes.items():
        console.print(layers(job, names[job]), packages(job, report), never_imported(job, report))


def probe(name: str) -> dict[str, Any]:
    """Run the probe inside an image and return its report; TaskError if there is no image, or it does not start."""
    if image_size(name) is None:
        raise TaskError(f"There is no image {name}; build it first: make build.")
    options = ["--rm", "--interactive", "--network", "none", "--env", "AWS_DEFAULT_REGION=eu-west-1"]
    process = docker("run", *options, "--entrypoint", "python", name, "-", stdin=PROBE.read_text())
    if process.returncode:
        raise TaskError(f"{name} does not start: {(process.stderr.strip() or 'no message').splitlines()[-1]}")
    report: dict[str, Any] = json.loads(process.stdout)
    return report


def bill(wanted: Product) -> dict[str, Any]:
    """Return the bill of materials of an image; written now if the image was built elsewhere."""
    file = sbom_file(wanted)
    if not file.exists():
        sbom.write(wanted, wanted.kind, file)
    document: dict[str, Any] = json.loads(file.read_text())
    return document


def size(name: str) -> int:
    """Return the bytes of an image; TaskError if the engine has none of that name."""
    amount = image_size(name)
    if amount is None:
        raise TaskError(f"There is no image {name}; pull it, or name another with --base-image.")
    return amount


def layers(job: str, name: str) -> Table:
    table = table_with(f"{job}: layers", "MB", "created by")
    for line in docker("history", "--no-trunc", "--format", "{{.Size}}\t{{.CreatedBy}}", name).stdout.splitlines():
        amount, created_by = line.split("\t")
        if amount != "0B":
            table.add_row(amount.removesuffix("MB"), " ".join(created_by.split())[:90] or "the base image")
    return table


def packages(job: str, report: dict[str, Any]) -> Table:
    table = table_with(f"{job}: packages", "package", "MB", "never imported")
    for name, package in sorted(report["packages"].items(), key=lambda item: -item[1]["bytes"]):
        table.add_row(name, megabytes(package["bytes"]), megabytes(package["unused"]))
    return table


def never_imported(job: str, report: dict[str, Any]) -> Table:
    table = table_with(f"{job}: largest files never imported", "path", "MB")
    for path, amount in report["unused"].items():
        table.add_row(path, megabytes(amount))
    return table


def table_with(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("job", "package", "path", "created by") else "right")
    return table


def megabytes(amount: int) -> str:
    return f"{amount / 1e6:.1f}"


if __name__ == "__main__":
    main()
