"""Products that a change affects, with the imports that lead to it; the checkout stays untouched."""

import subprocess

import pytest
from small_checkout import LIGHT, write

from common.errors import TaskError
from tools.packaging import affected


def git(root, *arguments):
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(root):
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "--message", "A state.")
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def repository(checkout):
    git(checkout, "init", "--quiet")
    commit(checkout)
    return checkout


def rows(root, tmp_path, base="HEAD"):
    """Return the jobs whose products changed since a revision: old and new fingerprint, and the reasons."""
    former = tmp_path / "former"
    affected.extract(affected.fork(base, root), former, root)
    compared = affected.compare(former, root)
    return {name: (old, new, why) for name, old, new, why in compared if old != new}


def test_files_outside_products_affect_nothing(repository, tmp_path):
    write(repository, {"README.md": "new", "common/lonely.py": "1"})
    assert rows(repository, tmp_path) == {}


def test_shared_module_is_reported_with_chain_of_imports_per_job(repository, tmp_path):
    write(repository, {"common/far.py": "FAR = 2\n"})
    changes = rows(repository, tmp_path)
    assert {name: why for name, (_, _, why) in changes.items()} == {
        "count": ["common/far.py changed: main.py → common.far"],
        "learn": ["common/far.py changed: main.py → common.near → common.far"],
    }
    old, new, _ = changes["count"]
    assert old != new
    assert len(old) == len(new) == 16


def test_added_and_removed_files_are_reported(repository, tmp_path):
    write(repository, {"jobs/count/main.py": "from common import lonely\n"})
    assert rows(repository, tmp_path)["count"][2] == [
        "common/far.py removed: main.py → common.far",
        "common/lonely.py added: main.py → common.lonely",
        "jobs/count/main.py changed: a file of the job",
    ]


def test_new_and_removed_jobs_are_reported(repository, tmp_path):
    (repository / "jobs/learn").rename(repository / "jobs/teach")
    changes = rows(repository, tmp_path)
    assert (changes["learn"][1], changes["learn"][2]) == ("-", ["the product is gone"])
    assert (changes["teach"][0], changes["teach"][2]) == ("-", ["a new product"])


def test_changes_for_machines_omit_equal_products(repository, tmp_path):
    (repository / "jobs/learn").rename(repository / "jobs/teach")
    former = tmp_path / "former"
    affected.extract(affected.fork("HEAD", repository), former, repository)
    entries = {entry["product"]: entry for entry in affected.changed(affected.compare(former, repository))}
    assert set(entries) == {"learn", "teach"}  # count did not change
    assert entries["learn"]["new"] is None
    assert entries["teach"]["old"] is None
    assert len(entries["teach"]["new"]) == 16
    write(repository, LIGHT)
    (entry,) = [
        each for each in affected.changed(affected.compare(former, repository)) if each["product"] == "sum-light"
    ]
    assert (entry["job"], entry["old"], entry["why"]) == ("sum", None, ["a new product"])


def test_former_state_that_could_not_be_built_is_reported(repository, tmp_path):
    (repository / "requirements/learning.txt").unlink()
    base = commit(repository)
    write(repository, {"requirements/learning.txt": "numpy==1\n"})
    old, _, (why,) = rows(repository, tmp_path, base)["learn"]
    assert old == "-"
    assert "requirements/learning.txt" in why


def test_later_commits_of_the_base_branch_do_not_count(repository, tmp_path):
    git(repository, "checkout", "--quiet", "-b", "others")
    write(repository, {"common/far.py": "FAR = 3\n"})
    commit(repository)
    git(repository, "checkout", "--quiet", "-b", "own", "HEAD~1")
    write(repository, {"common/near.py": "NEAR = 3\n"})
    commit(repository)
    assert set(rows(repository, tmp_path, "others")) == {"learn"}


def test_comparison_leaves_checkout_and_repository_untouched(repository, tmp_path):
    write(repository, {"common/far.py": "FAR = 2\n", "untracked": ""})

    def state():
        files = {
            file: file.stat().st_mtime_ns for folder in affected.FOLDERS for file in repository.rglob(f"{folder}/**/*")
        }
        queries = (["status", "--porcelain"], ["worktree", "list"], ["rev-parse", "HEAD"], ["for-each-ref"])
        return files, [git(repository, *arguments) for arguments in queries]

    before = state()
    rows(repository, tmp_path)
    assert state() == before


def test_unknown_revision_is_reported_in_one_sentence(repository):
    with pytest.raises(TaskError, match="merge-base nowhere HEAD failed"):
        affected.fork("nowhere", repository)
