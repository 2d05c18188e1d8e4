"""Release a version of this repository: its changelog, its number in pyproject.toml, a commit and a tag; no push."""

import argparse
import datetime
import re
import subprocess
from pathlib import Path

from common.errors import ArgumentError, TaskError
from tools.command_line import exit_on_task_error

ROOT = Path(__file__).resolve().parents[2]
UNRELEASED = "## [Unreleased]\n"
NUMBER = re.compile(r"(?m)^version = \"(?P<version>[^\"]*)\"$")  # of [project], the only one in pyproject.toml
FORM = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["release", "notes"], help="notes prints the changelog of a version")
    parser.add_argument("--version", required=True, metavar="NUMBER", help="such as 0.2.0")
    arguments = parser.parse_args()
    if arguments.action == "notes":
        print(notes((ROOT / "CHANGELOG.md").read_text("utf-8"), arguments.version))
    else:
        release(ROOT, arguments.version, datetime.datetime.now(datetime.UTC).date())
        print(f"Tagged v{arguments.version}; push it: git push --atomic origin HEAD v{arguments.version}")


def release(root: Path, version: str, day: datetime.date) -> None:
    """Commit and tag a version; TaskError without a change if the tree is dirty or the version is not a next one."""
    changelog, project = root / "CHANGELOG.md", root / "pyproject.toml"
    if changes := git(root, "status", "--porcelain"):
        raise TaskError(f"The checkout has uncommitted changes ({changes.split()[-1]} …); commit or stash them first.")
    if git(root, "tag", "--list", f"v{version}"):
        raise ArgumentError(f"The tag v{version} exists already; choose the next version.")
    text = project.read_text("utf-8")
    project_text = with_number(text, version)
    changelog_text = with_section(changelog.read_text("utf-8"), version, day)
    project.write_text(project_text, "utf-8")
    changelog.write_text(changelog_text, "utf-8")
    git(root, "commit", "--quiet", "--message", f"Release version {version}", "--", project.name, changelog.name)
    git(root, "tag", "--annotate", f"v{version}", "--message", f"Version {version}")


def with_number(project: str, version: str) -> str:
    """Return pyproject.toml with a version; ArgumentError unless it is greater than the present one."""
    wanted, found = FORM.fullmatch(version), NUMBER.search(project)
    if wanted is None:
        raise ArgumentError(f"The version is '{version}', expected three numbers such as 0.2.0.")
    former = FORM.fullmatch(found["version"]) if found else None
    if found is None or former is None:
        raise TaskError('pyproject.toml has no version of three numbers; give it one: version = "1.0.0".')
    if [int(part) for part in wanted.groups()] <= [int(part) for part in former.groups()]:
        raise ArgumentError(f"The version is {version}, expected one greater than {found['version']}.")
    return project[: found.start()] + f'version = "{version}"' + project[found.end() :]


def with_section(changelog: str, version: str, day: datetime.date) -> str:
    """Return the changelog with its section "Unreleased" under a version; TaskError if that is empty."""
    if not section(changelog, "Unreleased").strip():
        raise TaskError("The section [Unreleased] of CHANGELOG.md is empty; describe the changes for users there.")
    return changelog.replace(UNRELEASED, f"{UNRELEASED}\n## [{version}] - {day}\n", 1)


def notes(changelog: str, version: str) -> str:
    """Return the text of a version's section; TaskError if the changelog has none."""
    text = section(changelog, version).strip()
    if not text:
        raise TaskError(
            f"CHANGELOG.md has no section [{version}], or an empty one; make release VERSION={version} first."
        )
    return text


def section(changelog: str, heading: str) -> str:
    """Return the text below a heading of the second level, without empty subheadings."""
    found = re.search(rf"(?ms)^## \[{re.escape(heading)}\][^\n]*\n(.*?)(?=^## \[|\Z)", changelog)
    return re.sub(r"(?m)^### [^\n]*\n\s*(?=^### |\Z)", "", found[1]) if found else ""


def git(root: Path, *arguments: str) -> str:
    """Run git and return its output; TaskError with its message if it fails."""
    process = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    if process.returncode:
        raise TaskError(f"git {' '.join(arguments)} failed: {process.stderr.strip() or 'no message'}")
    return process.stdout.strip()


if __name__ == "__main__":
    main()
