"""The files of a job's build product, the reason for each, and the fingerprint of the product."""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.errors import ArgumentError
from common.handover.job_toml import Job, load
from tools.packaging import base_image as bases
from tools.packaging.base_image import BASE_IMAGE

ROOT = Path(__file__).resolve().parents[2]
# The platform of Spark jobs' libraries: Graviton, as in cluster.json.
NODES = ("--python-version", "3.11", "--python-platform", "aarch64-manylinux_2_28")
TRACKING_PLAN, SOURCE = "common.sources.tracking_plan", "common.sources.source"
LAYOUT = {
    "python": "2",
    "spark": "3",
}  # raise it when build.py builds other products from the same files


@dataclass(frozen=True)
class ProductFile:
    """A file of a product: its bytes, its source file in the checkout, and the reason why it is in."""

    content: bytes
    source: str
    reason: str


@dataclass(frozen=True)
class Product:
    """A job, the files of its build product by their path in it, and the settings that also identify it.

    A Spark job's files are those of its bundle and of an image that contains the bundle; the image has the name of the
    bundle, whatever its base is.
    """

    job: Job
    files: dict[str, ProductFile]
    settings: dict[str, str]
    base_image: str = BASE_IMAGE  # the name
    base: str = BASE_IMAGE  # the name with the digest of its content, if known

    @property
    def contents(self) -> bytes:
        """The sorted paths with the hashes of their bytes, and the settings: everything that identifies the product."""
        files = (f"{path}\0{hashlib.sha256(file.content).hexdigest()}\n" for path, file in sorted(self.files.items()))
        settings = (f"{name}={value}\n" for name, value in sorted(self.settings.items()))
        return "".join([*files, *settings]).encode()

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits: the SHA-256 of the contents."""
        return hashlib.sha256(self.contents).hexdigest()[:16]

    @property
    def contracts(self) -> list[str]:
        """The contracts that the job names, sorted."""
        tables = [*self.job.inputs.values(), *self.job.outputs.values()]
        return sorted({contract for table in tables for contract in table.fitting})


def jobs(root: Path = ROOT) -> list[str]:
    """Return the names of all jobs of a checkout, sorted."""
    return sorted(file.parent.name for file in root.glob("jobs/*/job.toml"))


def product(name: str, root: Path = ROOT, base_image: str | None = None, base: str | None = None) -> Product:
    """Return the product of a job; ArgumentError if its `job.toml` is wrong or names a missing file.

    The base image defaults to that of the Dockerfile. `base` is its name with the digest of its content, by default
    that of the engine's image.
    """
    base_image = base_image or bases.default(root) or BASE_IMAGE
    folder = root / "jobs" / name
    job = load(folder)
    built = Product(job, {}, {"layout": LAYOUT[job.engine]}, base_image, base or bases.with_digest(base_image))

    def add(path: str, file: Path, reason: str) -> None:
        if not file.is_file():
            raise ArgumentError(
                f"{name} needs {file.relative_to(root)} ({reason}), expected such a file in the checkout."
            )
        built.files[path] = ProductFile(content(file), file.relative_to(root).as_posix(), reason)

    for file in job_files(folder):
        add(file.relative_to(root).as_posix(), file, "a file of the job")
    chains = closure(folder, root)
    for module, chain in chains.items():
        path = module_file(module, root)
        add(path.relative_to(root).as_posix(), path, " → ".join(chain))
    for file, reason in source_files(job, chains, root).items():
        add(file.relative_to(root).as_posix(), file, reason)
    for contract in built.contracts:
        path = root / f"common/contracts/{contract}.toml"
        add(path.relative_to(root).as_posix(), path, "a contract that job.toml names")
    if job.requirements:
        add("requirements.txt", root / job.requirements, "the requirements that job.toml names")
    dockerfile = root / f"dockerfiles/{job.engine}-job.Dockerfile"
    add("Dockerfile", dockerfile, f"the Dockerfile of {job.engine} jobs")
    text = dockerfile.read_text("utf-8")
    for file in sorted([*dockerfile.parent.iterdir(), *(root / "requirements").iterdir()]):
        copied = file.name if file.parent == dockerfile.parent else f"requirements/{file.name}"
        if file.is_file() and file.suffix != ".Dockerfile" and copied in text:
            add(copied, file, f"named by the Dockerfile of {job.engine} jobs")
    if job.engine == "python":
        built.settings["base image"] = built.base
    elif job.requirements:
        built.settings["cluster"] = " ".join(NODES)
    return built


def content(file: Path) -> bytes:
    """Return the bytes of a file in a product: line feeds in text, whatever line endings Git wrote in the checkout."""
    read = file.read_bytes()
    return read if b"\0" in read else read.replace(b"\r\n", b"\n")


def job_files(folder: Path) -> list[Path]:
    """Return the files of a job's folder without tests, caches, hidden files and the marker of a package."""
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and not (file.name.startswith("test_") or file.name == "__init__.py")
        and not any(name.startswith(".") or name in ("__pycache__", "tests") for name in file.relative_to(folder).parts)
    ]


def source_files(job: Job, chains: dict[str, list[str]], root: Path) -> dict[Path, str]:
    """Return the files of `sources` that a job reads, with the reason: the tracking plan, and sources of its kinds.

    A job that reads `raw/events` of the lake reads the files `events.toml`.
    """
    found = {}
    if TRACKING_PLAN in chains:
        found[root / "sources" / "tracking_plan.toml"] = f"read by {TRACKING_PLAN}"
    if SOURCE in chains:
        for kind in sorted({table.raw.split("/")[1] for table in job.inputs.values() if table.raw}):
            found |= dict.fromkeys(sorted((root / "sources").glob(f"*/{kind}.toml")), f"a source of {kind}")
    return found


def closure(folder: Path, root: Path) -> dict[str, list[str]]:
    """Return the modules of `common` that a job's files reach, each with the shortest chain of imports to it."""
    chains = {}
    waiting: list[tuple[Path, str, list[str]]] = [
        (file, "", [file.relative_to(folder).as_posix()]) for file in job_files(folder) if file.suffix == ".py"
    ]
    for file, package, chain in waiting:  # grows during iteration: breadth first
        for module in imports(file, package, root):
            if module not in chains:
                chains[module] = [*chain, module]
                path = module_file(module, root)
                parent = module if path.name == "__init__.py" else module.rpartition(".")[0]
                waiting.append((path, parent, chains[module]))
    return chains


def imports(file: Path, package: str, root: Path) -> Iterator[str]:
    """Yield the modules of `common` that a file imports anywhere in its code, packages before their modules."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]  # a module, or a name in the module `origin`
        for name in names:
            steps = PurePosixPath(*name.split("."))
            for path in [*reversed(steps.parents), steps]:
                module = ".".join(path.parts)
                if path.parts[:1] == ("common",) and module_file(module, root).is_file():
                    yield module


def module_file(module: str, root: Path) -> Path:
    """Return the file of a module, or the `__init__.py` of a package."""
    path = root.joinpath(*module.split("."))
    package = path / "__init__.py"
    return package if package.is_file() else path.with_name(f"{path.name}.py")
