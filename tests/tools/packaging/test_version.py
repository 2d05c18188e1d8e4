"""A version is tagged only from a clean tree, with a changelog, upwards; a refusal changes nothing."""

import datetime
import subprocess

import pytest
from small_checkout import write

from common.errors import TaskError
from tools.packaging import version

DAY = datetime.date(2026, 11, 26)
PROJECT = '[project]\nname = "tandem"\nversion = "0.9.3"\n\n[tool.mypy]\npython_version = "3.11"\n'
CHANGELOG = """# Changelog

## [Unreleased]
### Added
- A thing.

### Changed

## [0.9.3] - 2026-01-01
### Fixed
- Another.
"""


def git(root, *arguments):
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "repository"
    write(root, {"pyproject.toml": PROJECT, "CHANGELOG.md": CHANGELOG})
    git(root, "init", "--quiet")
    for name, value in {"user.name": "Test", "user.email": "test@example.com"}.items():
        git(root, "config", name, value)
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "A state")
    return root


def test_release_moves_the_changelog_and_tags(repository):
    version.release(repository, "0.10.0", DAY)
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "cat-file", "-t", "v0.10.0") == "tag"
    assert git(repository, "rev-parse", "v0.10.0^{commit}") == git(repository, "rev-parse", "HEAD")
    assert (repository / "pyproject.toml").read_text() == PROJECT.replace("0.9.3", "0.10.0")
    changelog = (repository / "CHANGELOG.md").read_text()
    assert "## [Unreleased]\n\n## [0.10.0] - 2026-11-26\n### Added\n- A thing.\n" in changelog
    assert version.notes(changelog, "0.10.0") == "### Added\n- A thing."
    assert version.notes(changelog, "0.9.3") == "### Fixed\n- Another."


REFUSED = {
    "not three numbers": ("1.0", {}, "expected three numbers"),
    "leading zero": ("0.010.0", {}, "expected three numbers"),
    "empty": ("", {}, "expected three numbers"),
    "the same": ("0.9.3", {}, "expected one greater than 0.9.3"),
    "lower, though greater as text": ("0.9.20", {"pyproject.toml": PROJECT.replace("0.9.3", "0.10.0")}, "greater than"),
    "nothing unreleased": ("1.0.0", {"CHANGELOG.md": CHANGELOG.replace("- A thing.\n", "")}, r"\[Unreleased\].* empty"),
    "no changelog section": ("1.0.0", {"CHANGELOG.md": "# Changelog\n"}, r"\[Unreleased\].* empty"),
    "no version in the project": ("1.0.0", {"pyproject.toml": "[project]\n"}, "no version of three numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_release_changes_nothing(repository, case):
    number, changes, sentence = REFUSED[case]
    write(repository, changes)
    git(repository, "commit", "--quiet", "--all", "--allow-empty", "--message", "Another state")
    before = git(repository, "rev-parse", "HEAD")
    with pytest.raises(TaskError, match=sentence):
        version.release(repository, number, DAY)
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "rev-parse", "HEAD") == before
    assert git(repository, "tag") == ""


@pytest.mark.parametrize("file", ["CHANGELOG.md", "new.txt"])
def test_dirty_tree_is_refused(repository, file):
    write(repository, {file: "edited"})
    with pytest.raises(TaskError, match=f"uncommitted changes.*{file}"):
        version.release(repository, "1.0.0", DAY)
    assert (repository / file).read_text() == "edited"


def test_existing_tag_is_refused(repository):
    git(repository, "tag", "v1.0.0")
    with pytest.raises(TaskError, match=r"v1\.0\.0 exists already"):
        version.release(repository, "1.0.0", DAY)


def test_unknown_version_has_no_notes(repository):
    with pytest.raises(TaskError, match=r"no section \[7\.0\.0\]"):
        version.notes(CHANGELOG, "7.0.0")


def test_version_is_in_one_place():
    number = version.NUMBER.search((version.ROOT / "pyproject.toml").read_text())["version"]
    tracked = git(version.ROOT, "grep", "--files-with-matches", "--fixed-strings", f'version = "{number}"').splitlines()
    assert tracked == ["pyproject.toml"]
