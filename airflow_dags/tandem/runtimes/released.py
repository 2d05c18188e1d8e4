"""Check that a bundle in the lake is the code whose fingerprint a release names, before a cluster gets it."""

import hashlib
import io
import zipfile

from airflow.sdk.exceptions import AirflowFailException

from tandem import lake
from tandem.runtimes.base import Attempt, bundle
from tandem.stores.files import Unreadable

MAX_FILE = 16 << 20  # bytes of a bundle's file of code
SHARED = ("common/", "sources/")  # folders beside jobs/ in a checkout that bundles hold parts of


def check_bundle(attempt: Attempt) -> None:
    """Raise AirflowFailException unless the bundle's code hashes to the fingerprint that the attempt's run pinned.

    The fingerprint is the hash of the bundle's file `contents`: the paths of all files with their own hashes. Libraries
    are not listed there: pip checked them by the hashes in requirements.txt when they were packed.
    """
    folder, fingerprint = bundle(attempt), attempt.request["fingerprint"]
    try:
        contents, main, code = (lake.read(f"{folder}/{name}", MAX_FILE) for name in ("contents", "main.py", "code.zip"))
        packed = hashes_of_code(main, code, attempt.job, fingerprint)
    except FileNotFoundError as error:
        raise refusal(folder, fingerprint, f"{error} is missing") from None
    except (Unreadable, zipfile.BadZipFile, ValueError) as error:
        raise refusal(folder, fingerprint, f"it can't be read ({error})") from None
    if hashlib.sha256(contents).hexdigest()[:16] != fingerprint:
        raise refusal(folder, fingerprint, "its list of contents belongs to another fingerprint")
    listed = dict(line.split("\0") for line in contents.decode().splitlines() if "\0" in line)
    expected = {path: digest for path, digest in listed.items() if path.startswith((f"jobs/{attempt.job}/", *SHARED))}
    for path in sorted(packed.keys() | expected.keys()):
        if packed.get(path) != expected.get(path):
            raise refusal(folder, fingerprint, f"{path} is not the file that was built")


def refusal(folder: str, fingerprint: str, reason: str) -> AirflowFailException:
    return AirflowFailException(
        f"The bundle {folder} does not match its fingerprint {fingerprint}: {reason}; find out who wrote it, "
        "delete it, and redeploy the job (make deploy-jobs)."
    )


def hashes_of_code(main: bytes, packed: bytes, job: str, fingerprint: str) -> dict[str, str]:
    """The hash of each file of code by its path in a checkout; ValueError for content that no build packs."""
    hashes = {f"jobs/{job}/main.py": hashlib.sha256(main).hexdigest()}
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(packed):
                raise ValueError(f"{entry.filename} is compressed")
            content = archive.read(entry)
            if entry.filename == "fingerprint":
                if content != f"{fingerprint} {job}\n".encode():
                    raise ValueError(f"its own fingerprint is {content.decode().strip()}")
                continue
            path = entry.filename if entry.filename.startswith(SHARED) else f"jobs/{job}/{entry.filename}"
            if path in hashes:
                raise ValueError(f"{path} occurs twice")
            hashes[path] = hashlib.sha256(content).hexdigest()
    return hashes
