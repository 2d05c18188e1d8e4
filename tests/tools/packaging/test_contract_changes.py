"""Contracts of a checkout against those of its last release: a break is named, a described one passes."""

import subprocess

import pytest
from small_checkout import write

from tools.packaging import contract_changes

VISITS = 'description = "Visits."\n[columns]\nkey = {type = "string"}\n'
CITY = 'city = {type = "string", nullable = true}\n'
CHANGELOG = "# Changelog\n\n## [Unreleased]\n### Changed\n- Things.\n\n## [1.2.0] - 2026-01-01\n- visits@2, visits@3.\n"


def git(root, *arguments):
    subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True)


def commit(root):
    git(root, "add", "--all")
    git(root, "-c", "user.name=Test", "-c", "user.email=test@example.com", "commit", "--quiet", "--message", "A state")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with three releases, of which 1.10.0 is the last and has visits@1 and views@1."""
    write(tmp_path, {"common/contracts/visits@1.toml": VISITS + CITY, "CHANGELOG.md": CHANGELOG})
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    git(tmp_path, "tag", "v0.9.0")
    git(tmp_path, "tag", "v1.9.0")
    write(tmp_path, {"common/contracts/visits@1.toml": VISITS, "common/contracts/views@1.toml": VISITS})
    commit(tmp_path)
    git(tmp_path, "tag", "v1.10.0")
    monkeypatch.setattr(contract_changes, "ROOT", tmp_path)
    return tmp_path


def compare(monkeypatch):
    """Run the comparison; return its sentences, none if it passes."""
    monkeypatch.setattr("sys.argv", ["contract_changes"])
    try:
        contract_changes.main()
    except SystemExit as stop:
        return str(stop.code).splitlines()
    return []


def test_unchanged_contracts_and_new_descriptions_pass(repository, monkeypatch):
    assert compare(monkeypatch) == []
    write(repository, {"common/contracts/visits@1.toml": VISITS.replace("Visits.", "All visits.")})
    assert compare(monkeypatch) == []


def test_released_version_that_changed_is_named(repository, monkeypatch):
    write(repository, {"common/contracts/visits@1.toml": VISITS + CITY, "common/contracts/visits@2.toml": VISITS})
    assert compare(monkeypatch) == [
        "common/contracts/visits@1.toml differs from v1.10.0: nullable column 'city' is added; restore the file, and "
        "write the change as visits@3.",
        "visits@2 breaks visits@1: column 'city' is removed; keep 'city', or fill a new dataset from the raw level, or "
        "name visits@2 and the migration under [Unreleased] in CHANGELOG.md.",
    ]


def test_new_version_passes_if_it_adds_or_the_changelog_names_it(repository, monkeypatch):
    write(repository, {"common/contracts/visits@2.toml": VISITS + CITY, "common/contracts/clicks@1.toml": VISITS})
    assert compare(monkeypatch) == []
    write(repository, {"common/contracts/visits@3.toml": VISITS.replace("string", "int64") + CITY})
    (sentence,) = compare(monkeypatch)
    assert sentence.startswith("visits@3 breaks visits@2: column 'key' changes from string to int64; keep 'key'")
    write(repository, {"CHANGELOG.md": CHANGELOG.replace("- Things.", "- `other_visits@3`, `visits@30`.")})
    assert compare(monkeypatch) == [sentence]
    write(repository, {"CHANGELOG.md": CHANGELOG.replace("- Things.", "- Keys of `visits@3` are numbers.")})
    assert compare(monkeypatch) == []


def test_version_that_is_gone_is_compared_and_named(repository, monkeypatch):
    (repository / "common/contracts/views@1.toml").rename(repository / "common/contracts/views@2.toml")
    (sentence,) = compare(monkeypatch)
    assert sentence.startswith("common/contracts/views@1.toml of v1.10.0 is gone")
    write(repository, {"CHANGELOG.md": CHANGELOG.replace("- Things.", "- views@1 is no longer read.")})
    assert compare(monkeypatch) == []


def test_repository_without_a_release_says_so(repository, monkeypatch, capsys):
    git(repository, "tag", "--delete", "v0.9.0", "v1.9.0", "v1.10.0")
    git(repository, "tag", "vision")
    write(repository, {"common/contracts/visits@1.toml": VISITS + CITY})
    assert compare(monkeypatch) == []
    assert "No tag v* is reachable" in capsys.readouterr().out
