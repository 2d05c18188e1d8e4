"""List the parts that make test-system uses, and install those that come from package registries.

`python -m tools.sandbox.parts NAME …` installs the named ones only.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from common.errors import TaskError

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tandem"
PROGRAMS = CACHE / "bin"  # as the Makefile has it
MODULES = {
    "versitygw": "github.com/versity/versitygw/cmd/versitygw@v1.8.0",
    "fake-gcs-server": "github.com/fsouza/fake-gcs-server@v1.56.1",
    "bigtable-emulator": "cloud.google.com/go/bigtable/cmd/emulator@v1.58.0",
    "actionlint": "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NO_BROWSER = "There is no Chromium; install one (Debian: apt-get install chromium), or name one with CHROMIUM=PROGRAM."
PACKAGES = ("dynalite", "readers")  # of npm: folders of requirements, each with a lock file that has all hashes


def program(name: str) -> str | None:
    """The path of a program on PATH or in PROGRAMS, None if there is none."""
    return shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}{PROGRAMS}")


def lack_of_program(name: str, remedy: str) -> str | None:
    return None if program(name) else f"{name} is neither on PATH nor in {PROGRAMS}; {remedy}."


def lack_of_docker() -> str | None:
    client = os.environ.get("DOCKER") or "docker"
    remedy = "install one, or name its client in DOCKER and its address in DOCKER_HOST"
    try:
        if subprocess.run([client, "version"], capture_output=True).returncode:
            return f"No Docker engine answers {client}; {remedy}."
        kit = {**os.environ, "DOCKER_BUILDKIT": "1"}
        told = subprocess.run([client, "build", "/nowhere"], capture_output=True, text=True, env=kit).stderr
    except FileNotFoundError:
        return f"There is no Docker client '{client}'; {remedy}."
    if "buildx" in told:
        return f"{client} can't build without buildx; install it, or name another client in DOCKER."
    return None


def lack_of_kubernetes() -> str | None:
    for name, fact in (("KUBECONFIG", "names no cluster"), ("TANDEM_LOAD_IMAGE", "names no command that loads images")):
        if not os.environ.get(name):
            return f"{name} {fact}; set it as docs/kubernetes.md shows."
    return None


def lack_of_node_control() -> str | None:
    if os.environ.get("TANDEM_NODE_CONTROL"):
        return None
    return "TANDEM_NODE_CONTROL names no command that stops and starts a node of the cluster; set it as .ci/run does."


def browser() -> str | None:
    """The path of Chromium, None if there is none."""
    names = [os.environ["CHROMIUM"]] if os.environ.get("CHROMIUM") else BROWSERS
    return next(filter(None, map(shutil.which, names)), None)


def lack_of_browser() -> str | None:
    if not (ROOT / ".venv-graph" / "ready").exists():
        return "The environment .venv-graph is not installed; run make .venv-graph/ready."
    return None if browser() else NO_BROWSER


def lack_of_readers() -> str | None:
    if (CACHE / "readers" / "node_modules" / ".package-lock.json").exists() and shutil.which("node"):  # npm's last file
        return None
    return "The clients of stores for TypeScript are not installed; run make test-parts, which needs npm and Node."


PARTS: dict[str, tuple[str, Callable[[], str | None]]] = {
    "versitygw": ("S3 server", lambda: lack_of_program("versitygw", "run make test-parts, which needs Go")),
    "fake-gcs-server": (
        "Google's object store",
        lambda: lack_of_program("fake-gcs-server", "run make test-parts, which needs Go"),
    ),
    "bigtable-emulator": (
        "Bigtable",
        lambda: lack_of_program("bigtable-emulator", "run make test-parts, which needs Go"),
    ),
    "redis-server": ("Redis", lambda: lack_of_program("redis-server", "install Debian's package of that name")),
    "dynalite": ("DynamoDB", lambda: lack_of_program("dynalite", "run make test-parts, which needs npm")),
    "readers": ("stores in TypeScript", lack_of_readers),
    "actionlint": ("check of workflows", lambda: lack_of_program("actionlint", "run make test-parts, which needs Go")),
    "docker": ("Docker engine", lack_of_docker),
    "docker-registry": (
        "image registry",
        lambda: lack_of_program("docker-registry", "install Debian's package of that name"),
    ),
    "browser": ("Chromium and Playwright", lack_of_browser),
    "kubernetes": ("Kubernetes cluster", lack_of_kubernetes),
    "node-control": ("stop of a Kubernetes node", lack_of_node_control),
}


def lack(name: str) -> str | None:
    """One sentence: the part that this machine lacks, and how to get it. None if it is here."""
    return PARTS[name][1]()


def install(name: str) -> str | None:
    """Install a program from its package registry unless it is here; the lack that is left, as a sentence."""
    if lack(name):
        if name in MODULES and shutil.which("go"):
            command = ["go", "install", MODULES[name]]
            print(f"{' '.join(command)}, which takes minutes", file=sys.stderr)
            PROGRAMS.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=PROGRAMS) as made:  # Go names a program after its folder
                subprocess.run(command, env={**os.environ, "GOBIN": made}, check=True)
                next(Path(made).iterdir()).rename(PROGRAMS / name)
        elif name in PACKAGES and shutil.which("npm"):
            folder = CACHE / name
            shutil.copytree(ROOT / "requirements" / name, folder, dirs_exist_ok=True)
            subprocess.run(["npm", "ci", "--silent", "--ignore-scripts", "--prefix", folder], check=True)
            if name == "dynalite":
                PROGRAMS.mkdir(parents=True, exist_ok=True)
                (PROGRAMS / name).unlink(missing_ok=True)
                (PROGRAMS / name).symlink_to(folder / "node_modules" / ".bin" / name)
    return lack(name)


def installed(name: str) -> str:
    """Return the path of a program, which is installed unless it is here; TaskError if it cannot be."""
    if sentence := install(name):
        raise TaskError(sentence)
    return str(program(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=(*MODULES, *PACKAGES, []), help="of a program")
    arguments = parser.parse_args()
    lacks = {name: install(name) for name in arguments.names or (*MODULES, *PACKAGES)}
    if arguments.names:
        sys.exit(" ".join(filter(None, lacks.values())) or None)
    for name, (purpose, _) in PARTS.items():
        print(f"{name:17} {purpose:26} {lack(name) or 'is here'}")


if __name__ == "__main__":
    main()
