"""Spark writes to a lake on S3: to final paths, encrypted, despite failing requests."""

import json
import os
import re
import subprocess
import sys

import pytest

from tools.sandbox.faulty_proxy import proxy

KEY_OF_ENCRYPTION = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd"
EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


@pytest.fixture(scope="module")
def ran(s3_server, tmp_path_factory):
    """The program's output, and its requests by folder."""
    with proxy(s3_server["AWS_ENDPOINT_URL"]) as here:

        def of_faulty(method):
            return lambda request: request.method == method and "/faulty/part-" in request.path

        for kind in ("refused", "unavailable", "lost"):
            here.fail(kind, of_faulty("PUT"))
        for kind in ("refused", "unavailable", "cut"):
            here.fail(kind, of_faulty("GET"))
        here.answer(400, EXPIRED, lambda request: request.method != "HEAD" and "/after" in request.path, times=1000)
        folder = tmp_path_factory.mktemp("job")
        process = subprocess.run(
            [sys.executable, "-m", "tests.programs.write_by_spark", str(folder)],
            capture_output=True,
            text=True,
            env={**os.environ, **s3_server, "AWS_ENDPOINT_URL": here.url, "TANDEM_S3_KMS_KEY": KEY_OF_ENCRYPTION},
        )
        assert process.returncode == 0, process.stderr[-3000:]
        yield json.loads(process.stdout.strip().rpartition("\n")[2]), here


def test_files_are_committed_without_renames(ran):
    output, here = ran
    assert output["marker"]["committer"] == "magic"
    assert output["files"] == len(output["marker"]["filenames"]) >= 1
    assert output["rows"] == 7
    assert not [request for request in here.requests if "x-amz-copy-source" in request.headers]


def test_spark_encrypts_with_the_key_of_the_environment(ran):
    _, here = ran
    begun = [
        request.headers
        for request in here.requests
        if (request.method == "PUT" and "uploadId" not in request.query) or "uploads" in request.query
        if request.method != "GET"
    ]
    assert len(begun) > 3
    assert {headers.get("x-amz-server-side-encryption-aws-kms-key-id") for headers in begun} == {KEY_OF_ENCRYPTION}


def test_failed_requests_lose_and_repeat_no_rows(ran):
    output, here = ran
    assert sorted(here.happened[:6]) == ["cut", "lost", "refused", "refused", "unavailable", "unavailable"]
    assert output["read"] == [1, 2, 3, 4, 5, 6, 7]


def test_expired_credentials_in_spark_are_the_same_sentence(ran):
    output, _ = ran
    assert output["sentence"].startswith("The credentials for S3 have expired; renew them, then rerun the task")


def test_requests_of_spark_for_a_small_table_are_bounded(ran):
    """Most requests are the committer's, once per table of any size."""
    _, here = ran
    table = r"/t/attempt-1/[0-9a-f]{8}/quarantine"
    about = [request for request in here.requests if re.search(table, f"{request.path} {request.query}")]
    assert len(about) <= 60, [(request.method, request.path) for request in about]
