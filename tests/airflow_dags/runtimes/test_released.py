"""A bundle that is not the code of its fingerprint is never sent to a cluster."""

import io
import json
import subprocess
import zipfile

import factories
import pytest
from airflow.sdk.exceptions import AirflowFailException
from conftest import PYTHON, ROOT
from tandem.runtimes import released

BUNDLE = """
import json
from tools.packaging.build import code_files
from tools.packaging.fingerprint import product
built = product("build_interactions")
files = {**code_files(built), "contents": built.contents}
print(json.dumps([built.fingerprint, {name: content.hex() for name, content in files.items()}]))
"""
OTHER = b"import os\n"


@pytest.fixture(scope="module")
def built():
    """The files of a real bundle, and its fingerprint."""
    output = subprocess.run([PYTHON, "-c", BUNDLE], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    fingerprint, files = json.loads(output)
    return fingerprint, {name: bytes.fromhex(content) for name, content in files.items()}


def repacked(packed, change, compression=zipfile.ZIP_STORED):
    """A zip with its files changed."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        files = [(name, archive.read(name)) for name in archive.namelist()]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in change(files):
            archive.writestr(name, content)
    return buffer.getvalue()


def without(name):
    return lambda files: [(other, content) for other, content in files if other != name]


def swapped(name):
    return lambda files: [(other, OTHER if other == name else content) for other, content in files]


def more(name, content=OTHER):
    return lambda files: [*files, (name, content)]


CHANGES = {
    "main.py changed": lambda files: {**files, "main.py": OTHER},
    "main.py missing": lambda files: {name: content for name, content in files.items() if name != "main.py"},
    "contents missing": lambda files: {name: content for name, content in files.items() if name != "contents"},
    "contents changed": lambda files: {**files, "contents": files["contents"] + b"x=y\n"},
    "contents empty": lambda files: {**files, "contents": b""},
    "no zip": lambda files: {**files, "code.zip": OTHER},
    "zip cut off": lambda files: {**files, "code.zip": files["code.zip"][:-9]},
    "module changed": ("code.zip", swapped("common/handover/task.py")),
    "module missing": ("code.zip", without("common/handover/task.py")),
    "module added": ("code.zip", more("boto3.py")),
    "module added to common": ("code.zip", more("common/more.py")),
    "module twice": ("code.zip", more("common/handover/task.py")),
    "main.py in the zip": ("code.zip", more("main.py")),
    "path that climbs": ("code.zip", more("../evil.py")),
    "job.toml changed": ("code.zip", swapped("job.toml")),
    "other fingerprint in it": ("code.zip", swapped("fingerprint")),
    "larger than any code": lambda files: {**files, "main.py": b"#" * (released.MAX_FILE + 1)},
}


def make_attempt(fingerprint):
    return factories.attempt("build_interactions", request={"fingerprint": fingerprint}, cluster="j-1")


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Write the files of a bundle."""

    def put(files):
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        monkeypatch.setattr(released, "bundle", lambda attempt: f"file://{tmp_path}")

    return put


def test_unchanged_bundle_passes(built, put):
    put(built[1])
    released.check_bundle(make_attempt(built[0]))


@pytest.mark.parametrize("name", CHANGES)
def test_changed_bundle_is_refused(built, put, name):
    change = CHANGES[name]
    if isinstance(change, tuple):
        file, within = change
        put({**built[1], file: repacked(built[1][file], within)})
    else:
        put(change(built[1]))
    with pytest.raises(AirflowFailException, match=r"does not match its fingerprint"):
        released.check_bundle(make_attempt(built[0]))


def test_bundle_of_another_release_is_refused(built, put):
    put(built[1])
    with pytest.raises(AirflowFailException, match="does not match its fingerprint"):
        released.check_bundle(make_attempt("0123456789abcdef"))


def test_compressed_zip_is_refused_unread(built, put):
    put({**built[1], "code.zip": repacked(built[1]["code.zip"], lambda files: files, zipfile.ZIP_DEFLATED)})
    with pytest.raises(AirflowFailException, match="is compressed"):
        released.check_bundle(make_attempt(built[0]))
