"""The lake on S3 when requests fail: nothing is lost, nothing published twice, and a sentence names the remedy."""

import os
import uuid
from pathlib import Path

import numpy as np
import pytest

from common import protocol
from common.engines import arrow
from common.handover import manifest, s3, storage
from tools.sandbox.faulty_proxy import proxy

KEY_OF_ENCRYPTION = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd"
BIG = np.random.default_rng(7).bytes(20 << 20)
EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
INPUT = '[inputs.table]\ncontract = "quarantine@2"\n'
OUTPUT = '[outputs.table]\ncontract = "quarantine@2"\n'
END = "\nif __name__ == '__main__':\n    run(main)\n"
WRITE = (Path(__file__).parents[1] / "programs" / "write_row.py").read_text()
READ = f"""from common.engines import arrow
from common.handover import run

def main(task):
    task.metrics["rows"] = arrow.read(task, "table").num_rows
{END}"""


@pytest.fixture
def through(s3_server, monkeypatch):
    """A proxy of the S3 server that all clients of this process use."""
    with proxy(s3_server["AWS_ENDPOINT_URL"]) as here:
        for name, value in {**s3_server, "AWS_ENDPOINT_URL": here.url}.items():
            monkeypatch.setenv(name, value)
        forget_clients()
        yield here
    forget_clients()


def forget_clients():
    s3.client.cache_clear()
    arrow.s3_filesystem.cache_clear()


@pytest.fixture
def root():
    return f"s3://tandem-lake/{uuid.uuid4().hex}"


def writes(request):
    return request.method in ("PUT", "POST")


def reads(request):
    return request.method in ("GET", "HEAD")


def document(attempt):
    task = {"dag_id": "dag", "run_id": "run", "task_id": "task", "map_index": None, "attempt": attempt}
    return {"task": task, "writer": uuid.uuid4().hex}


def test_server_enforces_the_conditions_of_publishing(s3_server, monkeypatch, root):
    """Without a proxy: with a server that ignores the headers, all tests of races would pass."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    bucket, key = s3.bucket_and_key(f"{root}/manifest.json")
    put, refused = s3.client().put_object, s3.client().exceptions.ClientError
    tag = put(Bucket=bucket, Key=key, Body=b"1", IfNoneMatch="*")["ETag"]
    with pytest.raises(refused, match="PreconditionFailed"):
        put(Bucket=bucket, Key=key, Body=b"2", IfNoneMatch="*")
    with pytest.raises(refused, match="PreconditionFailed"):
        put(Bucket=bucket, Key=key, Body=b"2", IfMatch='"0123456789abcdef0123456789abcdef"')
    with pytest.raises(refused, match=r"NoSuchKey|PreconditionFailed"):
        put(Bucket=bucket, Key=f"{key}.none", Body=b"2", IfMatch=tag)
    assert storage.read(f"{root}/manifest.json") == (b"1", tag)
    put(Bucket=bucket, Key=key, Body=b"2", IfMatch=tag)
    assert storage.read(f"{root}/manifest.json")[0] == b"2"


@pytest.mark.parametrize("kind", ["unavailable", "refused", "lost"])
def test_manifest_is_published_once_despite_failed_requests(through, root, kind):
    """The second request fails the condition because of the first one, whose response was lost; that is a success."""
    uri = protocol.manifest_uri(f"{root}/key")
    through.fail(kind, writes)
    first = document(1)
    manifest.publish(uri, first, None)
    through.fail(kind, writes)
    second = document(2)
    manifest.publish(uri, second, manifest.load_or_none(uri))
    assert manifest.load_or_none(uri).document == second
    assert through.happened == [kind, kind]
    stored = [request.status for request in through.requests if writes(request)]
    assert stored == {"unavailable": [503, 200], "refused": [0, 200], "lost": [0, 412]}[kind] * 2


def test_lost_response_does_not_hide_another_attempt(through, root):
    uri = protocol.manifest_uri(f"{root}/key")
    manifest.publish(uri, document(1), None)
    through.fail("lost", writes)
    with pytest.raises(manifest.StaleAttempt):
        manifest.publish(uri, document(1), None)


@pytest.mark.parametrize("kind", ["unavailable", "refused", "lost"])
def test_multipart_stream_is_complete_despite_failures(through, root, kind):
    through.fail(kind, writes, times=3)
    with storage.stream(f"{root}/file") as file:
        for start in range(0, len(BIG), 1_000_003):
            file.write(BIG[start : start + 1_000_003])
    assert through.happened == [kind] * 3
    assert storage.read(f"{root}/file")[0] == BIG


def test_stream_with_a_lost_completion_response_is_complete(through, root):
    through.fail("lost", lambda request: request.method == "POST" and "uploadId" in request.query)
    with storage.stream(f"{root}/file") as file:
        file.write(BIG)
    assert through.happened == ["lost"]
    assert storage.read(f"{root}/file")[0] == BIG


def test_failed_writer_leaves_neither_file_nor_upload(through, root):
    for size in (5, len(BIG)):
        with pytest.raises(ZeroDivisionError), storage.stream(f"{root}/file") as file:
            file.write(BIG[:size])
            print(1 / 0)
    bucket, prefix = s3.bucket_and_key(root)
    assert "Uploads" not in s3.client().list_multipart_uploads(Bucket=bucket, Prefix=prefix)
    assert storage.files(root) == []


def test_refused_stream_is_reported(through, root):
    through.answer(400, EXPIRED, writes)
    with pytest.raises(s3.client().exceptions.ClientError, match="ExpiredToken"), storage.stream(f"{root}/f") as file:
        for start in range(0, len(BIG), 1 << 20):
            file.write(BIG[start : start + (1 << 20)])


@pytest.mark.parametrize("kind", ["unavailable", "refused", "cut"])
def test_reads_are_complete_despite_failures(through, root, kind):
    storage.write(f"{root}/file", BIG)
    through.fail(kind, reads, times=2)
    assert storage.read(f"{root}/file")[0] == BIG
    through.fail(kind, reads, times=2)
    with arrow.filesystem(root).open_input_file(arrow.path(f"{root}/file")) as file:
        assert file.read() == BIG
    assert through.happened == [kind] * 4


def test_python_encrypts_with_the_key_of_the_environment(through, root, monkeypatch):
    monkeypatch.setenv("TANDEM_S3_KMS_KEY", KEY_OF_ENCRYPTION)
    storage.write(f"{root}/file", b"x")
    storage.replace(f"{root}/manifest.json", b"x", None)
    for size in (5, len(BIG)):
        with storage.stream(f"{root}/stream-{size}") as file:
            file.write(BIG[:size])
    begun = [request for request in through.requests if writes(request) and "uploadId" not in request.query]
    assert len(begun) == 4
    for request in begun:
        assert request.headers["x-amz-server-side-encryption"] == "aws:kms"
        assert request.headers["x-amz-server-side-encryption-aws-kms-key-id"] == KEY_OF_ENCRYPTION


BEGIN_AND_DIE = f"""import os, signal
from common.handover import s3
from common.handover import run
def main(task):
    for folder in (task.folder("table"), task.partition("set", "all")[0] + "/" + task.version):
        bucket, key = s3.bucket_and_key(folder + "/file")
        s3.client().create_multipart_upload(Bucket=bucket, Key=key)
    os.kill(os.getpid(), signal.SIGKILL)
{END}"""


def test_next_attempt_aborts_only_uploads_of_its_predecessor(through, root, make_job):
    job = make_job(f'{OUTPUT}[outputs.set]\ncontract = "items@2"\ndataset = "curated/set"\n', BEGIN_AND_DIE)
    job.lake = root
    pending = [set()]
    for names in ({"attempt": 3}, {"task": "task-2"}, {"attempt": 1}):  # two may run concurrently, the older one late
        assert job.run(**names).returncode == -9
        pending.append(pending_uploads(root))
    assert [len(keys) for keys in pending] == [0, 2, 4, 6]
    (job.folder / "main.py").write_text(WRITE)
    process = job.run(attempt=2)
    assert process.returncode == 0, process.stderr
    assert "task aborted uploads=2" in process.stdout
    assert pending_uploads(root) == pending[2]


def pending_uploads(lake):
    bucket, prefix = s3.bucket_and_key(lake)
    answer = s3.client().list_multipart_uploads(Bucket=bucket, Prefix=prefix)
    return {upload["Key"] for upload in answer.get("Uploads", [])}


TROUBLES = {
    "wrong secret": (
        {"AWS_SECRET_ACCESS_KEY": "not-the-secret"},
        1,
        "S3 rejects these credentials; correct AWS_",
    ),
    "no credentials": (
        {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"},
        1,
        "There are no credentials for S3; give the task a role, or set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_wrong_credentials_or_server_are_one_sentence(through, root, make_job, trouble):
    environment, code, sentence = TROUBLES[trouble]
    job = make_job(OUTPUT, WRITE)
    job.lake = root
    process = job.run(environment=environment)
    assert process.returncode == code
    assert process.stderr.startswith(sentence)
    assert process.stderr.count("\n") == 1
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in process.stdout + process.stderr
    assert "not-the-secret" not in process.stdout + process.stderr


def test_unreachable_server_is_reported(through, root, monkeypatch):
    monkeypatch.setattr(s3, "S3_ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    forget_clients()
    for read in (storage.read, lambda uri: arrow.filesystem(uri).open_input_file(arrow.path(uri))):
        with pytest.raises(Exception, match=r"127\.0\.0\.1") as error:
            read(f"{root}/file")
        sentence = str(s3.explain(error.value, root))
        assert sentence.startswith("The S3 server (http://127.0.0.1:1) can't be reached; check AWS_ENDPOINT_URL")


def test_missing_bucket_is_reported_without_retries(through, make_job):
    job = make_job(OUTPUT, WRITE)
    job.lake = "s3://tandem-none/lake"
    process = job.run()
    assert process.returncode == 3
    assert process.stderr == "The bucket of s3://tandem-none/lake does not exist; create it, or correct --lake.\n"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_expired_credentials_are_reported_by_any_client(through, root, make_job, method):
    """HEAD is Arrow's; its response contains no more than that access is denied."""
    writer, reader = make_job(OUTPUT, WRITE, "writer"), make_job(INPUT, READ, "reader")
    writer.lake = reader.lake = root
    assert writer.run(task="one").returncode == 0
    through.answer(403 if method == "HEAD" else 400, EXPIRED, lambda request: request.method == method, times=100)
    process = reader.run("--from", "table=one", task="two")
    assert process.returncode == 1
    sentence = "S3 denies access" if method == "HEAD" else "The credentials for S3 have expired; renew them, then rerun"
    assert process.stderr.startswith(sentence)
    assert process.stderr.count("\n") == 1
