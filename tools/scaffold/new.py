"""Make a job, or a pipeline's app folder, from its template: files that pass lint and tests as they come."""

import argparse
import keyword
import re
import subprocess
import sys
from pathlib import Path

from common.errors import ArgumentError, TaskError
from common.protocol import nearest
from tools.packaging.catalogue import catalogue
from tools.scaffold import schemas

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "templates"
CLUSTERS = ROOT / "airflow_dags" / "trending_items"  # what a new pipeline with Spark opens, in every runtime
NEXT = {
    "job": "The job is in the catalogue; name it in a dag.py. docs/new_job.md goes on from here.",
    "pipeline": "Name your jobs in dag.py, a JSON of settings for each. docs/new_pipeline.md goes on from here.",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=list(NEXT))
    parser.add_argument("--name", required=True, metavar="NAME", help="in small letters, as a Python name")
    parser.add_argument("--template", required=True, metavar="NAME", help="; ".join(map(described, NEXT)))
    arguments = parser.parse_args()
    try:
        made = make(arguments.kind, arguments.template, arguments.name)
    except TaskError as error:
        sys.exit(str(error))
    for file in made:
        print(f"made {file.relative_to(ROOT)}")
    print(NEXT[arguments.kind])


def make(kind: str, template: str, name: str) -> list[Path]:
    """Write the files of a new job or pipeline and return them; ArgumentError, and no file, if that can't be."""
    if template not in templates(kind):
        raise ArgumentError(f"There is no template '{template}' of a {kind}{nearest(template, templates(kind))}.")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ArgumentError(
            f"'{name}' is no name of a {kind}, expected small letters, digits and _, as in daily_sales."
        )
    files = sorted((TEMPLATES / f"{kind}s" / template).iterdir())
    if kind == "pipeline" and template != "container":
        files += sorted(CLUSTERS.glob("cluster*.json"))
    texts = {place(kind, file.name, name): file.read_text().replace(f"new_{kind}", name) for file in files}
    if kind == "job":
        texts[ROOT / "jobs" / name / "__init__.py"] = ""
    for there in (file for file in (place(kind, "", name), *texts) if file.exists()):
        raise ArgumentError(f"{there.relative_to(ROOT)} is there already; take another name, or remove it.")
    for file, text in texts.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    if kind == "job":
        (ROOT / "airflow_dags" / "job_catalogue.json").write_text(catalogue(ROOT / "jobs"))
        schemas.write(ROOT)
    fit_lines_to_the_name([file for file in texts if file.suffix == ".py"])
    return sorted(texts)


def place(kind: str, file: str, name: str) -> Path:
    """Where a file of a template goes."""
    if kind == "pipeline":
        tests, folder = ROOT / "tests" / "airflow_dags", ROOT / "airflow_dags" / name
    else:
        tests, folder = ROOT / "tests" / "jobs", ROOT / "jobs" / name
    apart = {"test.py": tests / f"test_{name}.py", "contract.toml": ROOT / "common" / "contracts" / f"{name}@1.toml"}
    return apart.get(file, folder / file)


def templates(kind: str) -> list[str]:
    return sorted(folder.name for folder in (TEMPLATES / f"{kind}s").iterdir())


def described(kind: str) -> str:
    return f"{kind}: {', '.join(templates(kind))}"


def fit_lines_to_the_name(files: list[Path]) -> None:
    """Format Python files: where lines break depends on how long the name is."""
    ruff = Path(sys.executable).with_name("ruff")
    for command in (["check", "--fix"], ["format"]):
        subprocess.run([ruff, *command, "--quiet", *files], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
