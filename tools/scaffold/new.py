"""Create a job, or a pipeline's app folder, from its template: files that pass lint and tests unchanged."""

import argparse
import keyword
import re
import subprocess
import sys
from pathlib import Path

from common.errors import ArgumentError
from common.protocol import nearest
from tools.command_line import exit_on_task_error
from tools.packaging import catalogue
from tools.scaffold import schemas

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "templates"
CLUSTERS = ROOT / "airflow_dags" / "trending_items"  # the clusters of a new pipeline with Spark, for every runtime
SCHEDULES = ROOT / "airflow_dags" / "environments" / "shared.toml"  # every pipeline has a table in it
NEXT = {
    "job": "The job is in the catalogue; name it in a dag.py, then continue with docs/new_job.md.",
    "pipeline": "Name your jobs in dag.py and add the JSON of settings of each; its schedule is in shared.toml of "
    "airflow_dags/environments; continue with docs/new_pipeline.md.",
}


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=list(NEXT))
    parser.add_argument("--name", required=True, metavar="NAME", help="a Python name in small letters")
    parser.add_argument("--template", required=True, metavar="NAME", help="; ".join(map(list_templates, NEXT)))
    arguments = parser.parse_args()
    for file in create(arguments.kind, arguments.template, arguments.name):
        print(f"created {file.relative_to(ROOT)}")
    print(NEXT[arguments.kind])


def create(kind: str, template: str, name: str) -> list[Path]:
    """Write the files of a new job or pipeline and return them; ArgumentError without any file if that fails."""
    if template not in templates(kind):
        raise ArgumentError(f"There is no template '{template}' of a {kind}{nearest(template, templates(kind))}.")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ArgumentError(
            f"'{name}' is not a valid name of a {kind}, expected small letters, digits and _, as in daily_sales."
        )
    files = sorted((TEMPLATES / f"{kind}s" / template).iterdir())
    if kind == "pipeline" and template != "container":
        files += sorted(CLUSTERS.glob("cluster*.json"))
    texts = {target_file(kind, file.name, name): file.read_text().replace(f"new_{kind}", name) for file in files}
    if kind == "job":
        texts[ROOT / "jobs" / name / "__init__.py"] = ""
    for existing in (file for file in (target_file(kind, "", name), *texts) if file.exists()):
        raise ArgumentError(f"{existing.relative_to(ROOT)} exists already; choose another name, or remove it.")
    for file, text in texts.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    if kind == "job":
        catalogue.write()
        schemas.write(ROOT)
    elif f"[pipelines.{name}]" not in (tables := SCHEDULES.read_text()):
        hint = 'schedule = "0 6 * * *" and overdue_hours = 30 start it daily'
        SCHEDULES.write_text(f"{tables}[pipelines.{name}]  # {hint}\n")
    format_files([file for file in texts if file.suffix == ".py"])
    return sorted(texts)


def target_file(kind: str, file: str, name: str) -> Path:
    """Return the path of a new file from a template."""
    if kind == "pipeline":
        tests, folder = ROOT / "tests" / "airflow_dags", ROOT / "airflow_dags" / name
    else:
        tests, folder = ROOT / "tests" / "jobs", ROOT / "jobs" / name
    elsewhere = {
        "test.py": tests / f"test_{name}.py",
        "contract.toml": ROOT / "common" / "contracts" / f"{name}@1.toml",
    }
    return elsewhere.get(file, folder / file)


def templates(kind: str) -> list[str]:
    return sorted(folder.name for folder in (TEMPLATES / f"{kind}s").iterdir())


def list_templates(kind: str) -> str:
    return f"{kind}: {', '.join(templates(kind))}"


def format_files(files: list[Path]) -> None:
    """Format Python files: line breaks depend on the length of the name."""
    ruff = Path(sys.executable).with_name("ruff")
    for command in (["check", "--fix"], ["format"]):
        subprocess.run([ruff, *command, "--quiet", *files], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
