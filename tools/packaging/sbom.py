"""Write the bill of materials of an image: a CycloneDX document of its base and the libraries installed on it."""

import hashlib
import json
import re
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

from tools.packaging.docker_client import docker
from tools.packaging.fingerprint import Product
from tools.packaging.spark_jars import added_jars

NAMESPACE = uuid.UUID("5f0f9b3e-7a0c-4b8e-9d0a-2f6c1d3b7e41")  # of serial numbers, which are derived from fingerprints
IN_IMAGES = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.9",
    "python_version": "3.11",
    "sys_platform": "linux",
}
LISTED = "cat /etc/os-release; dpkg-query --show --showformat '${Package}\\t${Version}\\t${Architecture}\\n'"


def write(wanted: Product, kind: str, file: Path) -> None:
    """Write the bill of materials of a product's image."""
    file.parent.mkdir(parents=True, exist_ok=True)
    jars = added_jars() if wanted.kind == "bundle" and kind == "image" else []
    file.write_text(document(wanted, kind, system_packages(wanted.base_image), jars), "utf-8")


def document(wanted: Product, kind: str, system: Iterable[Component], jars: Iterable[Path]) -> str:
    """Return the bill of materials as JSON, without a time: the same bytes for the same image."""
    name = f"tandem/{wanted.name}"
    image = Component(
        type=ComponentType.CONTAINER,
        name=name,
        version=wanted.fingerprint,
        description=wanted.job.description,
        bom_ref=f"{name}:{wanted.fingerprint}",
    )
    components = [base(wanted.base), *system, *libraries(wanted, kind), *map(jar, jars)]
    bom = Bom(serial_number=uuid.uuid5(NAMESPACE, f"{wanted.fingerprint} {kind} {wanted.base}"), components=components)
    bom.metadata.component = image
    bom.register_dependency(image, components)
    content = json.loads(JsonV1Dot6(bom).output_as_string())
    del content["metadata"]["timestamp"]
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def base(name: str) -> Component:
    """Return the base image, with the digest of its content as its version."""
    image, _, digest = name.partition("@")
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))] if digest else []
    return Component(
        type=ComponentType.CONTAINER, name=image, version=digest or None, hashes=hashes, bom_ref=f"base {name}"
    )


def libraries(wanted: Product, kind: str) -> Iterator[Component]:
    """Yield the libraries in an image's requirements whose markers apply inside it."""
    files = ["requirements.txt"] if kind == "emr-image" else sorted(wanted.files)
    names = [name for name in files if re.fullmatch(r"requirements(/[\w-]+)?\.txt", name) and name in wanted.files]
    names = [name for name in names if name != "requirements/build.txt"]  # build tools are not in the image
    components = {}
    for name in names:
        for line in wanted.files[name].content.decode().replace("\\\n", " ").splitlines():
            text, *hashes = re.split(r"\s+--hash=sha256:", line.partition("#")[0].strip())
            if text:
                requirement = Requirement(text)
                if requirement.marker is None or requirement.marker.evaluate(IN_IMAGES):
                    components[requirement.name] = library(requirement, [each.strip() for each in hashes])
    yield from components.values()


def library(requirement: Requirement, hashes: list[str]) -> Component:
    """Return a pinned requirement with the hashes of all its files; one of them is installed."""
    name, version = requirement.name, str(requirement.specifier).removeprefix("==")
    package = PackageURL("pypi", None, name.lower(), version)
    distribution = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(str(package)),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=content) for content in hashes],
    )
    return purl(package, external_references=[distribution])


def jar(file: Path) -> Component:
    """Return a Java library by the Maven coordinates in it, else by its file name."""
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(file.read_bytes()).hexdigest())]
    with zipfile.ZipFile(file) as archive:
        poms = [entry for entry in archive.namelist() if re.fullmatch(r"META-INF/maven/.*/pom\.properties", entry)]
        text = archive.read(poms[0]).decode() if len(poms) == 1 else ""
    coordinates = dict(re.findall(r"(?m)^(groupId|artifactId|version)=(\S+)", text))
    if len(coordinates) == 3:
        return purl(
            PackageURL("maven", coordinates["groupId"], coordinates["artifactId"], coordinates["version"]),
            hashes=hashes,
        )
    return Component(type=ComponentType.LIBRARY, name=file.name, hashes=hashes, bom_ref=file.name)


def system_packages(image: str) -> list[Component]:
    """Return the Debian packages of an image; none if it has another kind of packages, or is not on this engine."""
    listed = docker("run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", LISTED)
    if listed.returncode:
        return []
    system = dict(re.findall(r'(?m)^(ID|VERSION_ID)="?([^"\n]*)"?$', listed.stdout))
    distribution = f"{system.get('ID', 'debian')}-{system.get('VERSION_ID', 'unknown')}"
    return [
        purl(PackageURL("deb", system.get("ID", "debian"), name, version, {"arch": arch, "distro": distribution}))
        for name, version, arch in re.findall(r"(?m)^(\S+)\t(\S+)\t(\S+)$", listed.stdout)
    ]


def purl(
    url: PackageURL, hashes: Iterable[HashType] = (), external_references: Iterable[ExternalReference] = ()
) -> Component:
    """Return the component of a package URL."""
    return Component(
        type=ComponentType.LIBRARY,
        group=url.namespace if url.type == "maven" else None,
        name=url.name,
        version=url.version,
        purl=url,
        bom_ref=url.to_string(),
        hashes=hashes,
        external_references=external_references,
    )
