"""Documents of jobs are read despite faults of S3."""

import boto3
import pytest
from tandem.lake import read_document

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
