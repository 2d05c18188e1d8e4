"""The documentation site has every page once, and builds strictly without the network."""

import os
import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tools.scaffold import site

MKDOCS = site.ROOT / ".venv-docs/bin/mkdocs"


def test_every_page_is_in_the_navigation_once():
    pages = [file.as_posix() for file in site.files(site.ROOT) if file.suffix == ".md"]
    pages = [page for page in pages if not fnmatch(page, site.PIPELINES) or "/tandem/" in page]  # the hook adds those
    navigation = (site.ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    assert sorted(re.findall(r": (\S+\.md)$", navigation, re.MULTILINE)) == pages
    assert "docs/reference.md" in pages


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Collect the pages of the site in a temporary folder."""
    for folder in ("common", "docs", "airflow_dags", "benchmarks", "sample_data"):
        shutil.copytree(site.ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.csv*", "__pycache__"))
    for file in (Path(site.__file__), site.MERMAID):
        site.copy(file, tmp_path / file.relative_to(site.ROOT))
    for file in [site.ROOT / "mkdocs.yml", site.ROOT / "LICENSE", *site.ROOT.glob("*.md")]:
        shutil.copy(file, tmp_path)
    (tmp_path / ".tandem/site").mkdir()
    return tmp_path


def build(checkout: Path) -> tuple[int, str]:
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"} | dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
    )
    process = subprocess.run(
        [MKDOCS, "build", "--strict"], cwd=checkout, env=environment, capture_output=True, text=True
    )
    return process.returncode, process.stderr


@pytest.mark.system
def test_site_shows_pages_reference_and_pictures(checkout):
    (checkout / "airflow_dags/weekly_items").mkdir()
    (checkout / "airflow_dags/weekly_items/README.md").write_text("# Weekly items\n")
    code, errors = build(checkout)
    assert code == 0, errors
    output = checkout / "dist/site"
    assert 'href="airflow_dags/weekly_items/index.html"' in (output / "index.html").read_text()
    reference = (output / "docs/reference.html").read_text()
    for name in (
        "common.handover.task.Task",
        "common.engines.arrow.read",
        "common.engines.frames.append",
        "common.errors.InputError",
    ):
        assert f'id="{name}"' in reference, name
    assert (output / "docs/images/daily_recommendations.png").exists()
    assert (output / "search/search_index.json").stat().st_size > 10_000
    loaded = re.findall(
        r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', (output / "index.html").read_text()
    )
    assert loaded == []  # no resource of another server


@pytest.mark.system
@pytest.mark.parametrize(("page", "text"), [("docs/emr.md", "[a](aws.md#nowhere)"), ("docs/stray.md", "# Stray")])
def test_broken_link_and_stray_page_fail_the_build(checkout, page, text):
    with (checkout / page).open("a") as file:
        file.write(f"\n{text}\n")
    code, errors = build(checkout)
    assert code != 0
    assert "WARNING" in errors
