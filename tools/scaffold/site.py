"""Hook of mkdocs: collect the pages in the layout of the checkout, so that links between them stay valid."""

import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STAGE = ROOT / ".tandem/site"
MERMAID = ROOT / ".tandem/mermaid/sphinx_immaterial/bundles/mermaid/mermaid.min.js"
PIPELINES = "airflow_dags/*/README.md"
PAGES = ("*.md", "docs/*.md", "airflow_dags/README.md", PIPELINES, "benchmarks/*.md", "sample_data/*/README.md")
OTHERS = ("docs/images/*", "LICENSE")


def on_config(config: Any) -> Any:
    """Fill the folder of pages, and add each pipeline to the navigation: new ones need no entry."""
    shutil.rmtree(STAGE)
    for file in files(ROOT):
        copy(ROOT / file, STAGE / file)
    copy(MERMAID, STAGE / "javascripts/mermaid.min.js")
    (section,) = (entry["Pipelines"] for entry in config["nav"] if "Pipelines" in entry)
    named = {page for entry in section for page in entry.values()}
    pipelines = [file.relative_to(ROOT).as_posix() for file in sorted(ROOT.glob(PIPELINES))]
    section += [{page.split("/")[1]: page} for page in pipelines if page not in named]
    return config


def files(root: Path) -> list[Path]:
    """Return the pages of a checkout and the files that they show or link to."""
    return sorted({file.relative_to(root) for pattern in (*PAGES, *OTHERS) for file in root.glob(pattern)})


def copy(source: Path, target: Path) -> None:
    """Copy a file; create its folder if needed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
