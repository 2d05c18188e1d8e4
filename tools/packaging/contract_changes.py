"""Compare the contracts of the checkout with those of the last release, and name the differences that break users."""

import re
import sys
from pathlib import Path

from common import contracts
from common.contracts import Contract, evolution
from tools.command_line import exit_on_task_error
from tools.packaging.version import git, section

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "common/contracts"


@exit_on_task_error()
def main() -> None:
    tag = last_release(ROOT) if (ROOT / ".git").exists() else None  # a copy of a checkout may be without history
    if tag is None:
        print("No tag v* is reachable, so contracts were not compared with a release.")
        return
    changelog = section((ROOT / "CHANGELOG.md").read_text("utf-8"), "Unreleased")
    problems = broken(released(ROOT, tag), present(ROOT), tag, changelog)
    if problems:
        sys.exit("\n".join(problems))


def last_release(root: Path) -> str | None:
    """Return the tag of the newest release that HEAD contains, None if there is none."""
    tags = git(root, "tag", "--merged", "HEAD", "--list", "v[0-9]*", "--sort=-version:refname").split()
    return tags[0] if tags else None


def released(root: Path, tag: str) -> dict[str, Contract]:
    """Return the contracts of a release by name and version."""
    paths = git(root, "ls-tree", "--name-only", tag, f"{FOLDER}/").split()
    stems = {path: Path(path).stem for path in paths if path.endswith(".toml")}
    return {name: contracts.parse(name, git(root, "show", f"{tag}:{path}")) for path, name in stems.items()}


def present(root: Path) -> dict[str, Contract]:
    """Return the contracts of the checkout by name and version."""
    return {file.stem: contracts.parse(file.stem, file.read_text("utf-8")) for file in (root / FOLDER).glob("*.toml")}


def broken(before: dict[str, Contract], now: dict[str, Contract], tag: str, changelog: str) -> list[str]:
    """Return a sentence for each difference that breaks users of a release.

    A released version never changes, except for its description. A version that is removed, or that does more than add
    nullable columns to the one before, breaks users unless the changelog names it.
    """
    sentences = []
    for name in sorted(before.keys() & now.keys()):
        for difference in evolution.compare(before[name], now[name]):
            sentences.append(
                f"{FOLDER}/{name}.toml differs from {tag}: {difference.text}; restore the file, and write the change "
                f"as {next_version(name, now)}."
            )
    for name in sorted(before.keys() - now.keys()):
        if not names(changelog, name):
            sentences.append(
                f"{FOLDER}/{name}.toml of {tag} is gone, so its files cannot be read any more; restore it, or name "
                f"{name} and the migration under [Unreleased] in CHANGELOG.md."
            )
    for name in sorted(now.keys() - before.keys()):
        former = version_before(name, before | now)
        if former is None or names(changelog, name):
            continue
        changes = evolution.compare((before | now)[former], now[name])
        sentences += [
            f"{name} breaks {former}: {change.text}; {change.migration}, or name {name} and the migration under "
            "[Unreleased] in CHANGELOG.md."
            for change in changes
            if change.migration
        ]
    return sentences


def names(changelog: str, contract: str) -> bool:
    """Return True if the changelog names a contract."""
    return re.search(rf"(?<!\w){re.escape(contract)}(?!\d)", changelog) is not None


def version_before(name: str, known: dict[str, Contract]) -> str | None:
    """Return the newest known version of a contract that is older, None if there is none."""
    return max((other for other in known if evolution.is_older(other, name)), key=evolution.split, default=None)


def next_version(name: str, known: dict[str, Contract]) -> str:
    """Return the name for the next version of a contract."""
    base, _ = evolution.split(name)
    newest = max(version for other, version in map(evolution.split, known) if other == base)
    return f"{base}@{newest + 1}"


if __name__ == "__main__":
    main()
