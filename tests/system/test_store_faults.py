"""Object stores when requests fail: nothing is lost, nothing published twice, and a sentence names the remedy."""

import json
import os
import re
import uuid
from pathlib import Path

import botocore.exceptions
import google.api_core.exceptions
import google.auth.exceptions
import numpy as np
import pyarrow as pa
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from common import protocol
from common.engines import arrow
from common.errors import TaskError
from common.handover import manifest, storage
from common.handover.stores import gs, s3
from tests import lakes
from tools.sandbox.faulty_proxy import SLOW_DOWN

KEYS_OF_ENCRYPTION = {
    "s3": "arn:aws:kms:eu-west-1:111122223333:key/1234abcd",
    "gs": "projects/shop/locations/europe-west1/keyRings/lake/cryptoKeys/lake",
}
BIG = np.random.default_rng(7).bytes(20 << 20)
REFUSED = (
    botocore.exceptions.ClientError,
    google.api_core.exceptions.GoogleAPICallError,
    google.auth.exceptions.GoogleAuthError,
)
# Answers as Amazon and Google give them.
EXPIRED = {
    "s3": (400, b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"),
    "gs": (401, b'{"error": {"code": 401, "message": "Invalid Credentials"}}'),
}
DENIED = {
    "s3": (403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"),
    "gs": (403, b'{"error": {"code": 403, "message": "tandem@shop does not have storage.objects.get access."}}'),
}
BUSY = {
    "s3": (503, SLOW_DOWN),
    "gs": (429, b'{"error": {"code": 429, "message": "The object exceeded the rate limit for mutations."}}'),
}
INPUT = '[inputs.table]\ncontract = "quarantine@2"\n'
OUTPUT = '[outputs.table]\ncontract = "quarantine@2"\n'
END = "\nif __name__ == '__main__':\n    run(main)\n"
WRITE = (Path(__file__).parents[1] / "programs" / "write_row.py").read_text()
READ = f"""from common.engines import arrow
from common.handover import run

def main(task):
    task.metrics["rows"] = arrow.read(task, "table").num_rows
{END}"""
only_s3 = pytest.mark.parametrize("remote", ["s3"], indirect=True)
only_gs = pytest.mark.parametrize("remote", ["gs"], indirect=True)


@pytest.fixture
def through(remote, monkeypatch):
    """The proxy of the store, which all clients of this process use."""
    for name, value in remote.environment.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    yield remote.proxy
    forget_clients()


def forget_clients():
    lakes.forget_clients()
    arrow.object_store.cache_clear()


@pytest.fixture
def root(remote):
    return remote.root


def writes(request):
    return request.method in ("PUT", "POST")


def reads(request):
    return request.method in ("GET", "HEAD")


def document(attempt):
    task = {"dag_id": "dag", "run_id": "run", "task_id": "task", "map_index": None, "attempt": attempt}
    return {"task": task, "writer": uuid.uuid4().hex}


def put(uri, content, tag):
    """Write by one request under a condition, without a look at the reason of a refusal; return the new tag."""
    if uri.startswith("s3:"):
        bucket, key = s3.bucket_and_key(uri)
        condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
        return s3.client().put_object(Bucket=bucket, Key=key, Body=content, **condition)["ETag"]
    blob = gs.blob(uri)
    blob.upload_from_string(content, if_generation_match=int(tag or 0))
    return str(blob.generation)


def test_server_enforces_the_conditions_of_publishing(through, root):
    """Otherwise, with a server that ignores them, all tests of races would pass."""
    uri = f"{root}/manifest.json"
    tag = put(uri, b"1", None)
    other = {"s3": '"0123456789abcdef0123456789abcdef"', "gs": str(int(tag.strip('"'), 16))}[root[:2]]
    for late in (None, other):
        with pytest.raises(REFUSED, match=r"PreconditionFailed|412"):
            put(uri, b"2", late)
    with pytest.raises(REFUSED, match=r"NoSuchKey|PreconditionFailed|412"):
        put(f"{uri}.none", b"2", tag)
    assert storage.read(uri) == (b"1", tag)
    put(uri, b"2", tag)
    assert storage.read(uri)[0] == b"2"


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
def test_large_stream_is_complete_despite_failures(through, root, kind):
    through.fail(kind, writes, times=3)
    with storage.stream(f"{root}/file") as file:
        for start in range(0, len(BIG), 1_000_003):
            file.write(BIG[start : start + 1_000_003])
    assert through.happened == [kind] * 3
    assert storage.read(f"{root}/file")[0] == BIG


@only_s3
def test_stream_with_a_lost_completion_response_is_complete(through, root):
    through.fail("lost", lambda request: request.method == "POST" and "uploadId" in request.query)
    with storage.stream(f"{root}/file") as file:
        file.write(BIG)
    assert through.happened == ["lost"]
    assert storage.read(f"{root}/file")[0] == BIG


def test_failed_writer_leaves_neither_file_nor_upload(through, root):
    for size in (5, len(BIG)):
        with (
            pytest.raises(ZeroDivisionError),
            storage.stream(f"{root}/file") as file,
            pa.PythonFile(file, mode="w") as wrapper,  # which closes the file
        ):
            wrapper.write(BIG[:size])
            print(1 / 0)
    assert storage.files(root) == []
    if root.startswith("s3:"):
        assert pending_uploads(root) == set()
    else:
        assert through.requests[-2].method == "DELETE"  # of the upload; Google has no list of them


def test_refused_stream_is_reported(through, remote, root):
    through.answer(*EXPIRED[remote.kind], writes)
    with (
        pytest.raises(REFUSED, match=r"ExpiredToken|Anonymous credentials cannot"),
        storage.stream(f"{root}/f") as file,
    ):
        for start in range(0, len(BIG), 1 << 20):
            file.write(BIG[start : start + (1 << 20)])


@pytest.mark.parametrize("kind", ["unavailable", "refused", "cut"])
def test_reads_are_complete_despite_failures(through, root, kind):
    storage.write(f"{root}/file", BIG)
    through.fail(kind, reads, times=2)
    assert storage.read(f"{root}/file")[0] == BIG
    through.fail(kind, reads, times=2)
    with arrow.filesystem(root).open_input_stream(arrow.path(f"{root}/file")) as file:
        assert file.read() == BIG
    assert through.happened == [kind] * 4


def test_object_replaced_while_it_is_read_is_an_error(through, root):
    storage.write(f"{root}/file", BIG)
    blocks = storage.blocks(storage.files(root)[0])
    assert next(blocks) == BIG[: 8 << 20]
    storage.write(f"{root}/file", BIG[1:])
    with pytest.raises(TaskError, match="file was replaced while it was read; rerun the task"):
        list(blocks)


def test_python_encrypts_with_the_key_of_the_environment(through, remote, root, monkeypatch):
    key = KEYS_OF_ENCRYPTION[remote.kind]
    monkeypatch.setenv(f"TANDEM_{remote.kind.upper()}_KMS_KEY", key)
    storage.write(f"{root}/file", b"x")
    storage.replace(f"{root}/manifest.json", b"x", None)
    for size in (5, len(BIG)):
        with storage.stream(f"{root}/stream-{size}") as file:
            file.write(BIG[:size])
    begun = [each for each in through.requests if writes(each) and not {"uploadId", "upload_id"} & each.query.keys()]
    assert len(begun) == 4
    for request in begun:
        if remote.kind == "gs":
            assert request.query["kmsKeyName"] == [key]
        else:
            assert request.headers["x-amz-server-side-encryption"] == "aws:kms"
            assert request.headers["x-amz-server-side-encryption-aws-kms-key-id"] == key


BEGIN_AND_DIE = f"""import os, signal
from common.handover.stores import s3
from common.handover import run
def main(task):
    for folder in (task.folder("table"), task.partition("set", "all")[0] + "/" + task.version):
        bucket, key = s3.bucket_and_key(folder + "/file")
        s3.client().create_multipart_upload(Bucket=bucket, Key=key)
    os.kill(os.getpid(), signal.SIGKILL)
{END}"""


@only_s3
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
    "s3": {
        "wrong secret": ({"AWS_SECRET_ACCESS_KEY": "not-the-secret"}, "S3 rejects these credentials; correct AWS_"),
        "no credentials": (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"},
            "There are no credentials for S3; give the task a role, or set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
        ),
    },
    "gs": {
        "wrong secret": (
            {"STORAGE_EMULATOR_HOST": "", "GOOGLE_APPLICATION_CREDENTIALS": "{folder}/account.json"},
            "Google rejects these credentials, or they have expired; renew them, or correct the file that GOOGLE_",
        ),
        "no credentials": (
            {"STORAGE_EMULATOR_HOST": "", "NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": "{folder}"},
            "There are no credentials for Google Cloud Storage; give the task a service account, or name a file of",
        ),
    },
}


def account(server):
    """Return a service account whose key Google does not know, as a file has it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    about = {"type": "service_account", "client_email": "tandem@shop.iam.gserviceaccount.com"}
    return json.dumps({**about, "private_key": key.private_bytes(*form).decode(), "token_uri": f"{server}/token"})


@pytest.mark.parametrize("trouble", ["wrong secret", "no credentials"])
def test_wrong_credentials_are_one_sentence(through, remote, root, make_job, tmp_path, trouble):
    (tmp_path / "account.json").write_text(account(through.url))
    refusal = b'{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}'
    through.answer(400, refusal, lambda request: request.path == "/token")
    variables, sentence = TROUBLES[remote.kind][trouble]
    job = make_job(OUTPUT, WRITE)
    job.lake = root
    process = job.run(environment={name: value.format(folder=tmp_path) for name, value in variables.items()})
    assert process.returncode == 1
    assert process.stderr.startswith(sentence)
    assert process.stderr.count("\n") == 1
    for secret in (os.environ.get("AWS_SECRET_ACCESS_KEY", "PRIVATE KEY"), "not-the-secret"):
        assert secret not in process.stdout + process.stderr


def arrows_read(uri):
    arrow.filesystem(uri).open_input_stream(arrow.path(uri))


@pytest.fixture
def impatient(monkeypatch):
    """Clients that give up at once."""
    monkeypatch.setattr(s3, "S3_ATTEMPTS", 1)
    monkeypatch.setattr(gs, "RETRY_SECONDS", 1)
    forget_clients()


UNREACHABLE = {
    "s3": "The S3 server (http://127.0.0.1:1) can't be reached; check AWS_ENDPOINT_URL",
    "gs": "Google Cloud Storage (http://127.0.0.1:1) can't be reached; check STORAGE_EMULATOR_HOST",
}


def test_unreachable_server_is_reported(through, impatient, remote, root, monkeypatch):
    monkeypatch.setenv(lakes.SERVERS[remote.kind][1], "http://127.0.0.1:1")
    forget_clients()
    for read in (storage.read, arrows_read):
        with pytest.raises(Exception, match=r"127\.0\.0\.1|Could not connect") as error:
            read(f"{root}/file")
        assert str(storage.explain(error.value, root)).startswith(UNREACHABLE[remote.kind])


NAMES = {"s3": "S3", "gs": "Google Cloud Storage"}


OPERATIONS = {
    "read": storage.read,
    "list": storage.files,
    "write": lambda uri: storage.write(uri, b"x"),
    "delete": lambda uri: storage.delete_files([uri]),
    "read by Arrow": arrows_read,
}


@pytest.mark.parametrize("operate", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize(
    ("answer", "sentence"),
    [(BUSY, r"{} \(\S+\) kept throttling despite backoff"), (DENIED, "{} denies access to valid credentials; grant")],
    ids=["busy", "denied"],
)
def test_refusal_of_any_request_is_reported(through, impatient, remote, root, operate, answer, sentence):
    through.answer(*answer[remote.kind], lambda request: True, times=100)
    with pytest.raises(Exception) as error:
        operate(f"{root}/file")
    assert re.match(sentence.format(NAMES[remote.kind]), str(storage.explain(error.value, root)))


def test_missing_bucket_is_reported_without_retries(through, remote, make_job):
    job = make_job(OUTPUT, WRITE)
    job.lake = f"{remote.kind}://tandem-none/lake"
    process = job.run()
    assert process.returncode == 3
    assert process.stderr == f"The bucket of {job.lake} does not exist; create it, or correct --lake.\n"


RENEW = {"s3": "The credentials for S3 have expired; renew them, then rerun", "gs": "Google rejects these credentials"}


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_expired_credentials_are_reported_by_any_client(through, remote, root, make_job, method):
    """HEAD is Arrow's on S3; its response contains no more than that access is denied."""
    writer, reader = make_job(OUTPUT, WRITE, "writer"), make_job(INPUT, READ, "reader")
    writer.lake = reader.lake = root
    assert writer.run(task="one").returncode == 0
    if remote.kind == "gs":
        method = {"PUT": "POST", "HEAD": "part"}.get(method, method)
    status, body = EXPIRED[remote.kind]
    concerns = lambda request: request.method == method or (method == "part" and "part-" in request.path)  # noqa: E731
    through.answer(403 if method == "HEAD" else status, body, concerns, times=100)
    process = reader.run("--from", "table=one", task="two")
    assert process.returncode == 1
    assert process.stderr.startswith("S3 denies access" if method == "HEAD" else RENEW[remote.kind])
    assert process.stderr.count("\n") == 1
