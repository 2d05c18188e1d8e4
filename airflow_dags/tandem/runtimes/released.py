"""The check that a bundle in the lake is the code whose fingerprint a release names, before it is sent anywhere."""

import hashlib
import io
import zipfile
from pathlib import Path

from airflow.sdk.exceptions import AirflowFailException

from tandem.lake import Unreadable, bounded, read_file, read_s3
from tandem.runtimes.base import Attempt, bundle

LARGEST = 16 << 20  # bytes of a bundle's file of code


def check_bundle(work: Attempt) -> None:
    """Raise AirflowFailException unless the bundle's code hashes to the fingerprint that the work's run took.

    `contents` in the bundle is what the fingerprint is the hash of: the paths of all files with their own hashes. The
    libraries are not among them: these came by the hashes of requirements.txt when they were packed.
    """
    place, fingerprint = bundle(work), work.request["fingerprint"]
    try:
        contents = read(f"{place}/contents")
        found = code(read(f"{place}/main.py"), read(f"{place}/code.zip"), work.job, fingerprint)
    except FileNotFoundError as error:
        raise refused(place, fingerprint, f"{error} is missing") from None
    except (Unreadable, zipfile.BadZipFile, ValueError) as error:
        raise refused(place, fingerprint, f"it can't be read ({error})") from None
    if hashlib.sha256(contents).hexdigest()[:16] != fingerprint:
        raise refused(place, fingerprint, "its list of contents is another one's")
    listed = dict(line.split("\0") for line in contents.decode().splitlines() if "\0" in line)
    expected = {path: digest for path, digest in listed.items() if path.startswith((f"jobs/{work.job}/", "common/"))}
    for path in sorted(found.keys() | expected.keys()):
        if found.get(path) != expected.get(path):
            raise refused(place, fingerprint, f"{path} is not the file that was built")


def refused(place: str, fingerprint: str, why: str) -> AirflowFailException:
    return AirflowFailException(
        f"The bundle {place} is not what its fingerprint {fingerprint} stands for: {why}; find out who wrote it, "
        "delete it, and release the job again (make deploy-jobs)."
    )


def code(main: bytes, packed: bytes, job: str, fingerprint: str) -> dict[str, str]:
    """The hash of each file of code by its path in a checkout; ValueError for what no build packs."""
    found = {f"jobs/{job}/main.py": hashlib.sha256(main).hexdigest()}
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(packed):
                raise ValueError(f"{entry.filename} is compressed")
            content = archive.read(entry)
            if entry.filename == "fingerprint":
                if content != f"{fingerprint} {job}\n".encode():
                    raise ValueError(f"it says of itself to be {content.decode().strip()}")
                continue
            path = entry.filename if entry.filename.startswith("common/") else f"jobs/{job}/{entry.filename}"
            if path in found:
                raise ValueError(f"{path} is there twice")
            found[path] = hashlib.sha256(content).hexdigest()
    return found


def read(uri: str) -> bytes:
    if uri.startswith("s3://"):
        return read_s3(uri, lambda body: bounded(body, uri, LARGEST))
    return read_file(Path(uri.removeprefix("file://")), LARGEST)
