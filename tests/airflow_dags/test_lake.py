"""Files of the lake are listed alike everywhere; documents of jobs are read despite faults of S3."""

import boto3
import pytest
from tandem.lake import files, read, read_document

from tools.sandbox.faulty_proxy import proxy


@pytest.mark.parametrize("kind", ["cut", "unavailable", "refused", "lost"])
def test_document_is_read_despite_faults_of_s3(s3_server, monkeypatch, kind):
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    boto3.Session().client("s3").put_object(Bucket="tandem-lake", Key="m.json", Body=b'{"a": "long enough to be cut"}')
    with proxy(s3_server["AWS_ENDPOINT_URL"]) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        between.fail(kind, lambda request: request.path.endswith("m.json"), times=3)
        assert read_document("s3://tandem-lake/m.json") == {"a": "long enough to be cut"}
        assert between.happened == [kind] * 3


def test_files_are_listed_alike_on_s3_and_in_a_file_system(s3_server, monkeypatch, tmp_path):
    """Without hidden ones, those of other folders, and the markers of folders on S3."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    names = ("raw/b/2.gz", "raw/a/1.gz", "raw/a/.3.gz", "raw/_tmp/4.gz", "raws/5.gz")
    client = boto3.Session().client("s3")
    for name in names:
        client.put_object(Bucket="tandem-lake", Key=f"listed/{name}", Body=name.encode())
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    client.put_object(Bucket="tandem-lake", Key="listed/raw/a/", Body=b"")
    for root in ("s3://tandem-lake/listed", f"file://{tmp_path}"):
        listed = files(f"{root}/raw")
        assert [(file.uri, file.bytes) for file in listed] == [
            (f"{root}/{name}", 10) for name in ("raw/a/1.gz", "raw/b/2.gz")
        ]
        assert read(listed[0].uri) == b"raw/a/1.gz"
        assert all(file.tag.isalnum() and file.changed > 1e9 for file in listed)
        assert files(f"{root}/nothing") == []
