"""Bring the pages of the documentation site together as they lie in the checkout, so that links between them hold."""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAGE = ROOT / ".tandem/site"
MERMAID = ROOT / ".tandem/mermaid/sphinx_immaterial/bundles/mermaid/mermaid.min.js"
PAGES = ("*.md", "docs/*.md", "airflow_dags/**/README.md", "benchmarks/*.md", "sample_data/*/README.md")
OTHERS = ("docs/images/*", "LICENSE")


def main() -> None:
    if not MERMAID.exists():
        sys.exit(f"{MERMAID.relative_to(ROOT)} is missing, expected what draws the diagrams; run make docs.")
    shutil.rmtree(STAGE, ignore_errors=True)
    for file in files(ROOT):
        copy(ROOT / file, STAGE / file)
    copy(MERMAID, STAGE / "javascripts/mermaid.min.js")


def files(root: Path) -> list[Path]:
    """The pages of a checkout and what they show or link to."""
    return sorted({file.relative_to(root) for pattern in (*PAGES, *OTHERS) for file in root.glob(pattern)})


def copy(source: Path, target: Path) -> None:
    """Copy a file into a folder that may have to be made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


if __name__ == "__main__":
    main()
