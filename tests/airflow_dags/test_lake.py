"""Files of the lake are listed and read alike in all stores, despite faults of their servers."""

import os
import sys
import time
import uuid

import pytest
from tandem import lake
from tandem.dag_errors import PipelineError
from tandem.stores import gs
from tandem.stores.files import Unreadable

from common.handover import storage
from tools.sandbox.faulty_proxy import proxy

KEY_HEADER = "x-amz-server-side-encryption-aws-kms-key-id"
SERVERS = {"s3": ("s3_server", "AWS_ENDPOINT_URL"), "gs": ("fake_gcs", "STORAGE_EMULATOR_HOST")}


@pytest.fixture
def open_lake(request, tmp_path, monkeypatch):
    """The root of an empty lake of a scheme."""

    def open_lake(scheme):
        if scheme == "file":
            return f"file://{tmp_path}"
        fixture, _ = SERVERS[scheme]
        for name, value in request.getfixturevalue(fixture).items():
            monkeypatch.setenv(name, value)
        return f"{scheme}://tandem-lake/{uuid.uuid4().hex}"

    return open_lake


REMOTE = [pytest.param(scheme, marks=pytest.mark.system) for scheme in SERVERS]


@pytest.fixture(params=["file", *REMOTE])
def root(request, open_lake):
    return open_lake(request.param)


@pytest.fixture(params=REMOTE)
def remote(request, open_lake, monkeypatch):
    """The root of a lake on a server, and a proxy before this."""
    root = open_lake(request.param)
    variable = SERVERS[request.param][1]
    with proxy(os.environ[variable]) as between:
        monkeypatch.setenv(variable, between.url)
        yield root, between


def test_files_are_listed_without_hidden_ones_and_other_folders(root):
    names = ("raw/b/2.gz", "raw/a/1.gz", "raw/a/.3.gz", "raw/_tmp/4.gz", "raws/5.gz")
    for name in names:
        lake.write(f"{root}/{name}", name.encode())
    if lake.is_remote(root):
        lake.write(f"{root}/raw/a/", b"")  # the marker of a folder
    listed = lake.files(f"{root}/raw")
    assert [(file.uri, file.bytes) for file in listed] == [
        (f"{root}/{name}", 10) for name in ("raw/a/1.gz", "raw/b/2.gz")
    ]
    assert all(abs(file.changed - time.time()) < 3600 for file in listed)
    seen_by_jobs = storage.files(f"{root}/raw")  # whose tags are in the ledgers
    assert [(file.uri, file.bytes, file.tag) for file in listed] == [tuple(file) for file in seen_by_jobs]
    assert lake.files(f"{root}/nothing") == []


def test_document_is_read_in_bounds(root):
    for name, content in (("full", b'{"a": 1}'), ("empty", b""), ("list", b"[]")):
        lake.write(f"{root}/{name}.json", content)
    full = f"{root}/full.json"
    assert lake.read(full, 8) == b'{"a": 1}'
    with pytest.raises(Unreadable, match="has more than 7 bytes"):
        lake.read(full, 7)
    assert lake.read(f"{root}/empty.json") == b""
    with pytest.raises(FileNotFoundError):
        lake.read(f"{root}/missing.json")
    names = ("missing", "empty", "list", "full")
    assert lake.read_documents([f"{root}/{name}.json" for name in names]) == [{"a": 1}]


@pytest.mark.parametrize("kind", ["cut", "unavailable", "refused", "lost"])
def test_document_is_read_despite_faults_of_the_server(remote, kind):
    root, between = remote
    lake.write(f"{root}/m.json", b'{"a": "long enough to be cut"}')
    between.fail(kind, lambda request: request.method == "GET" and request.path.endswith("m.json"), times=3)
    assert lake.read_document(f"{root}/m.json") == {"a": "long enough to be cut"}
    assert between.happened == [kind] * 3


def test_document_is_encrypted_by_the_key_of_the_environment(remote, monkeypatch):
    root, between = remote
    monkeypatch.setenv("TANDEM_S3_KMS_KEY", "alias/own")
    monkeypatch.setenv("TANDEM_GS_KMS_KEY", "projects/p/locations/l/keyRings/r/cryptoKeys/own")
    lake.write(f"{root}/written/a.json", b"{}")
    (request,) = (each for each in between.requests if each.method in ("PUT", "POST"))
    if root.startswith("s3:"):
        assert request.headers.get(KEY_HEADER) == "alias/own"
    else:
        assert request.query["kmsKeyName"] == ["projects/p/locations/l/keyRings/r/cryptoKeys/own"]
    assert lake.read(f"{root}/written/a.json") == b"{}"


def test_missing_client_and_unknown_store_are_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    with pytest.raises(PipelineError, match=r"needs Google's client.*pip install .*airflow-dataproc.txt"):
        gs.client()
    with pytest.raises(PipelineError, match="hdfs://l/a is not in a lake that Tandem knows, expected file://, s3://"):
        lake.read("hdfs://l/a")
