"""The files of a job's build product, the reason for each, and the fingerprint of the product."""

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.errors import ArgumentError, TaskError
from common.handover.job_toml import Job, load
from common.protocol import light_product, nearest
from tools.packaging import base_image as bases
from tools.packaging.base_image import BASE_IMAGE

ROOT = Path(__file__).resolve().parents[2]
# The platforms of Spark jobs' libraries, by the processors of clusters' nodes as Python names them.
NODES = {
    machine: ("--python-version", "3.11", "--python-platform", f"{machine}-manylinux_2_28")
    for machine in ("aarch64", "x86_64")
}
TRACKING_PLAN, SOURCE = "common.sources.tracking_plan", "common.sources.source"
# Code for either engine imports FRAMES, which asks ACTIVATE for it; each product of a Spark job contains its own one.
FRAMES, LIGHT = "common.engines.frames", "common.engines.light"
ENGINES = ("common.engines", "common.ingestion")  # packages with one package per engine
ACTIVATE, LIGHT_START = f"{LIGHT}.activate", f"{LIGHT}.submit"
LIGHT_REQUIREMENTS = "requirements/light.txt"
LAYOUT = {"bundle": "3", "image": "2", "light": "1"}  # raise it when build.py builds others from the same files


@dataclass(frozen=True)
class ProductFile:
    """A file of a product: its bytes, its source file in the checkout, and the reason why it is in."""

    content: bytes
    source: str
    reason: str


@dataclass(frozen=True)
class Product:
    """A build product of a job, its files by their path in it, and the settings that also identify it.

    A bundle's files are also those of an image that contains it; that image has its name, whatever the base is.
    """

    job: Job
    files: dict[str, ProductFile]
    settings: dict[str, str]
    kind: str = "image"  # or bundle, or light: a Spark job's image without Spark
    base_image: str = BASE_IMAGE  # the name
    base: str = BASE_IMAGE  # the name with the digest of its content, if known

    @property
    def name(self) -> str:
        """The name in releases, and of the image."""
        return light_product(self.job.name) if self.kind == "light" else self.job.name

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


def products(root: Path = ROOT, names: list[str] | None = None) -> list[str]:
    """Return the names of the products of some jobs, of all jobs of a checkout if none is named, in that order."""
    found = []
    for name in names or jobs(root):
        found += [name, light_product(name)] if has_light(name, root) else [name]
    return found


def has_light(job: str, root: Path = ROOT) -> bool:
    """Return True if a job has a light image: a Spark job whose code runs on either engine."""
    return FRAMES in closure(root / "jobs" / job, root)


def select_jobs(names: list[str] | None) -> list[str]:
    """Return the named jobs, all jobs if none is named; TaskError for an unknown one."""
    known = jobs()
    for name in names or []:
        if name not in known:
            raise TaskError(f"There is no job '{name}'{nearest(name, known)}.")
    return names or known


def product(name: str, root: Path = ROOT, base_image: str | None = None, base: str | None = None) -> Product:
    """Return the product of that name; ArgumentError if its job's `job.toml` is wrong or names a missing file.

    The base image defaults to that of the Dockerfile. `base` is its name with the digest of its content, by default
    that of the engine's image.
    """
    base_image = base_image or bases.default(root) or BASE_IMAGE
    job_name = job_of(name)
    folder = root / "jobs" / job_name
    job = load(folder)
    kind = "light" if name != job_name else "image" if job.engine == "python" else "bundle"
    chains = closure(folder, root, kind)
    if kind == "light" and FRAMES not in chains:
        raise ArgumentError(
            f"{job_name} has no light image, because its code does not reach {FRAMES}; run its other product."
        )
    built = Product(job, {}, {"layout": LAYOUT[kind]}, kind, base_image, base or bases.with_digest(base_image))

    def add(path: str, file: Path, reason: str) -> None:
        if not file.is_file():
            raise ArgumentError(
                f"{name} needs {file.relative_to(root)} ({reason}), expected such a file in the checkout."
            )
        built.files[path] = ProductFile(content(file), file.relative_to(root).as_posix(), reason)

    for file, reason in code_of(job, folder, chains, root):
        add(file.relative_to(root).as_posix(), file, reason)
    for contract in built.contracts:
        path = f"common/contracts/{contract}.toml"
        add(path, root / path, "a contract that job.toml names")
    if kind == "light":
        add("requirements.txt", root / LIGHT_REQUIREMENTS, "the requirements of light images")
    elif job.requirements:
        add("requirements.txt", root / job.requirements, "the requirements that job.toml names")
    for path, file, reason in docker_files("spark" if kind == "bundle" else "python", root):
        add(path, file, reason)
    if kind != "bundle":
        built.settings["base image"] = built.base
    elif job.requirements:
        built.settings["cluster"] = " ".join(word for platform in NODES.values() for word in platform)
    return built


def job_of(name: str) -> str:
    """Return the job of a product by its name."""
    return name.removesuffix(light_product(""))


def code_of(job: Job, folder: Path, chains: dict[str, list[str]], root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of a job, of the modules that it reaches, and of its sources, each with the reason for it."""
    for file in job_files(folder):
        yield file, "a file of the job"
    for module, chain in chains.items():
        path = module_file(module, root)
        yield path, " → ".join(chain)
        if path.name != "__init__.py":
            for file in job_files(path.with_suffix("")):  # templates of a module, in a folder of its name
                yield file, f"a template of {module}"
    yield from source_files(job, chains, root).items()


def docker_files(which: str, root: Path) -> Iterator[tuple[str, Path, str]]:
    """Yield a Dockerfile and the files that it names: the path of each in a build context, its file, the reason."""
    dockerfile = root / f"dockerfiles/{which}-job.Dockerfile"
    yield "Dockerfile", dockerfile, f"the Dockerfile of {which} jobs"
    text = dockerfile.read_text("utf-8")
    for file in sorted([*dockerfile.parent.iterdir(), *(root / "requirements").iterdir()]):
        copied = file.name if file.parent == dockerfile.parent else f"requirements/{file.name}"
        if file.is_file() and file.suffix != ".Dockerfile" and copied in text:
            yield copied, file, f"named by the Dockerfile of {which} jobs"


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


def closure(folder: Path, root: Path, kind: str = "bundle") -> dict[str, list[str]]:
    """Return the modules of `common` that a job's files reach, each with the shortest chain of imports to it.

    A light image has the light engine and its start, but not that of Spark; the other products vice versa.
    """
    chains: dict[str, list[str]] = {}
    without = tuple(f"{each}.{'spark' if kind == 'light' else 'light'}." for each in ENGINES)
    kept = (LIGHT, ACTIVATE)
    waiting: list[tuple[Path, str, list[str]]] = [
        (file, "", [file.relative_to(folder).as_posix()]) for file in job_files(folder) if file.suffix == ".py"
    ]

    def add(modules: Iterable[str], chain: list[str]) -> None:
        for module in modules:
            if module not in chains and (module in kept or not f"{module}.".startswith(without)):
                chains[module] = [*chain, module]
                path = module_file(module, root)
                parent = module if path.name == "__init__.py" else module.rpartition(".")[0]
                waiting.append((path, parent, chains[module]))

    if kind == "light":
        add(with_packages(LIGHT_START, root), ["the start of a light image"])
    for file, package, chain in waiting:  # grows during iteration: breadth first
        add(imports(file, package, root), chain)
    return chains


def imports(file: Path, package: str, root: Path) -> Iterator[str]:
    """Yield the modules of `common` that a file imports anywhere in its code, packages before their modules."""
    for name in imported_names(file.read_bytes(), package):
        yield from with_packages(name, root)


@functools.cache
def imported_names(code: bytes, package: str) -> list[str]:
    """Return the names that code in a package imports, with their modules; cached, because products share files."""
    names: list[str] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            names += [f"{origin}.{alias.name}" for alias in node.names]  # a module, or a name in the module `origin`
    return names


def with_packages(name: str, root: Path) -> Iterator[str]:
    """Yield a module of `common` after the packages that contain it; a name in a module is its module."""
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
