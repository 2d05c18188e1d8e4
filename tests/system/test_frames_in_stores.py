"""Both engines read and write a lake in an object store as frames do: encrypted, despite failing requests."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lakes import SERVERS, Remote, behind_proxy
from tools.sandbox.faulty_proxy import Request

Found = dict[str, Any]


@dataclass
class Kind:
    """A kind of store: a key, the answer to expired credentials and its sentence."""

    key: str
    variable: str
    expired: tuple[int, bytes]
    sentence: str


KINDS = {
    "s3": Kind(
        "arn:aws:kms:eu-west-1:111122223333:key/1234abcd",
        "TANDEM_S3_KMS_KEY",
        (400, b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"),
        # The second one if the SDK in Arrow lost the code of the answer, which it does now and then.
        r"The credentials for S3 have expired; renew them|S3 \(\S+\) refused a request; renew the credentials",
    ),
    "gs": Kind(
        "projects/shop/locations/europe-west1/keyRings/lake/cryptoKeys/lake",
        "TANDEM_GS_KMS_KEY",
        (401, b'{"error": {"code": 401, "message": "Invalid Credentials"}}'),
        "Google rejects these credentials, or they have expired; renew them",
    ),
}


def name_of(request: Request) -> str:
    """Return the path of the object that a request is about; Google has it in the query or the body of an upload."""
    return request.path + "".join(request.query.get("name", [])) + request.body[:500].decode(errors="replace")


def begins_upload(request: Request) -> bool:
    if request.path.startswith("/upload/"):
        return request.method == "POST"
    return (request.method == "PUT" and "uploadId" not in request.query) or (
        request.method == "POST" and "uploads" in request.query
    )


def key_of(request: Request) -> str | None:
    header = request.headers.get("x-amz-server-side-encryption-aws-kms-key-id")
    return header or next(iter(request.query.get("kmsKeyName", [])), None)


def run(remote: Remote, *command: str, key: bool = True) -> Found:
    """Run a program on the lake, and return what it prints at its end."""
    kind = KINDS[remote.kind]
    more = {kind.variable: kind.key} if key else {}
    process = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        env={**os.environ, **remote.environment, **more},
    )
    assert process.returncode == 0, process.stderr[-3000:]
    found: Found = json.loads(process.stdout.strip().rpartition("\n")[2])
    return found


@pytest.mark.parametrize("store", KINDS)
def test_frames_are_written_and_read_by_the_light_engine(store: str, request: pytest.FixtureRequest) -> None:
    kind = KINDS[store]
    with behind_proxy(store, request.getfixturevalue(SERVERS[store][0])) as remote:
        here = remote.proxy
        for fault in ("refused", "unavailable"):
            here.fail(fault, lambda each: begins_upload(each) and "part-" in name_of(each))
            here.fail(fault, lambda each: each.method == "GET" and "part-" in each.path)
        here.fail("cut", lambda each: each.method == "GET" and "part-" in each.path)
        here.answer(*kind.expired, lambda each: each.method == "GET" and "/attempt-2/" in each.path, times=99)
        found = run(remote, "common.engines.light.submit", "tests/programs/write_frames.py", remote.root)
    assert re.match(kind.sentence, found.pop("sentence"))
    assert found == {"read": [1, 2, 3, 4, 5, 6, 7], "files": 3, "appended": [14, 2]}
    assert sorted(here.happened[:5]) == ["cut", "refused", "refused", "unavailable", "unavailable"]
    assert {key_of(each) for each in here.requests if begins_upload(each)} == {kind.key}


@pytest.fixture(scope="module", params=KINDS)
def spark(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Found, Remote]]:
    """The output of a program on Spark, and the store that it wrote to."""
    kind = KINDS[request.param]
    with behind_proxy(request.param, request.getfixturevalue(SERVERS[request.param][0])) as remote:
        here = remote.proxy
        for fault in ("refused", "unavailable", "lost"):
            here.fail(fault, lambda each: begins_upload(each) and re.search("/faulty/.*part-", name_of(each)))
        for fault in ("refused", "unavailable", "cut"):
            here.fail(fault, lambda each: each.method == "GET" and "/faulty/part-" in each.path)
        here.answer(*kind.expired, lambda each: each.method != "HEAD" and "/after" in name_of(each), times=1000)
        folder: Path = tmp_path_factory.mktemp("job")
        yield run(remote, "tests.programs.write_by_spark", str(folder), remote.root, key=remote.kind == "s3"), remote


def test_spark_commits_files_without_renaming_folders(spark: tuple[Found, Remote]) -> None:
    """Files are uploaded to their final keys on S3, and copied to their names once on Google's storage."""
    output, remote = spark
    requests = remote.proxy.requests
    copied = [
        each.path
        for each in requests
        if "x-amz-copy-source" in each.headers or re.search("/(rewrite|copy)To/", each.path)
    ]
    data = [path for path in copied if "/marked/" in path and path.endswith(".parquet")]
    expected = {"s3": ("magic", 0), "gs": ("ManifestCommitter", output["files"])}
    assert (output["marker"]["committer"].rpartition(".")[2], len(data)) == expected[remote.kind], copied
    assert output["files"] == len(output["marker"]["filenames"]) >= 1
    assert (output["rows"], output["left"]) == (7, [])


@pytest.mark.parametrize("spark", ["s3"], indirect=True)
def test_spark_encrypts_with_the_key_of_the_environment(spark: tuple[Found, Remote]) -> None:
    _, remote = spark
    begun = [each for each in remote.proxy.requests if begins_upload(each)]
    assert len(begun) > 3
    assert {key_of(each) for each in begun} == {KINDS["s3"].key}


def test_failed_requests_of_spark_lose_and_repeat_no_rows(spark: tuple[Found, Remote]) -> None:
    output, remote = spark
    assert sorted(remote.proxy.happened[:6]) == ["cut", "lost", "refused", "refused", "unavailable", "unavailable"]
    assert output["read"] == [1, 2, 3, 4, 5, 6, 7]


def test_expired_credentials_in_spark_are_the_same_sentence(spark: tuple[Found, Remote]) -> None:
    output, remote = spark
    assert re.match(KINDS[remote.kind].sentence, output["sentence"]), output["sentence"]


def test_requests_of_spark_for_a_small_table_are_bounded(spark: tuple[Found, Remote]) -> None:
    """Most requests are the committer's, once per table of any size."""
    _, remote = spark
    table = r"/t/attempt-1/[0-9a-f]{8}/quarantine"
    about = [each for each in remote.proxy.requests if re.search(table, f"{each.path} {each.query}")]
    assert len(about) <= 60, [(each.method, each.path) for each in about]
