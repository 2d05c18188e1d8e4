"""Bytes at a URI: atomic writes; listings without files that Hadoop hides."""

import multiprocessing
import os

import google.api_core.exceptions
import google.auth.exceptions
import pytest

from common.handover import storage

CONTENTS = [b"a" * 300_000, b"b" * 700_000]


def rewrite(uri, ended):
    while not ended.is_set():
        for content in CONTENTS:
            storage.write(uri, content)


def test_reader_sees_only_complete_content(lake):
    uri = f"{lake}/folder/file"
    storage.write(uri, CONTENTS[0])
    fork = multiprocessing.get_context("fork")
    ended = fork.Event()
    writer = fork.Process(target=rewrite, args=(uri, ended))
    writer.start()
    try:
        seen = {storage.read(uri)[0] for _ in range(400)}
    finally:
        ended.set()
        writer.join()
    assert seen == set(CONTENTS)


def test_listings_leave_out_hidden_files_and_folders(any_lake):
    for name in ("b/1", "a/x/2", "a/_temporary/3", "a/.part.crc", "_SUCCESS", "a-longer/4"):
        storage.write(f"{any_lake}/data/{name}", b"x" * int(name[-1]) if name[-1].isdigit() else b"")
    if storage.is_remote(any_lake):
        storage.write(f"{any_lake}/data/a/", b"")  # a folder's marker, as Hadoop leaves them
    assert [file[:2] for file in storage.files(f"{any_lake}/data/a")] == [(f"{any_lake}/data/a/x/2", 2)]
    assert [file.bytes for file in storage.files(f"{any_lake}/data")] == [4, 2, 1]
    assert storage.folders(f"{any_lake}/data") == ["a", "a-longer", "b"]
    assert storage.folders(f"{any_lake}/nothing") == storage.files(f"{any_lake}/nothing") == []


def test_files_of_several_folders_match_single_listings(any_lake):
    for name in (
        "b/v-1/1",
        "a/v-1/x/2",
        "a/v-1/_temporary/3",
        "a/v-10/4",
        "a/v/5",
        "b/v-1/sub/6",
        "c/v-1/7",
        "aa/v-1/8",
    ):
        storage.write(f"{any_lake}/data/{name}", b"x" * int(name[-1]))
    folders = [f"{any_lake}/data/{name}" for name in ("b/v-1", "a/v-1", "nothing/v-1")]
    found = storage.files_of(folders)
    assert found == {folder: storage.files(folder) for folder in folders}
    assert [[file.bytes for file in found[folder]] for folder in folders] == [[1, 6], [2], []]
    assert storage.files_of([]) == {}


def test_delete_spares_folder_with_same_prefix(any_lake):
    for name in ("attempt-1/file", "attempt-1/other", "attempt-10/file"):
        storage.write(f"{any_lake}/{name}", b"x")
    for _ in range(2):  # the second time nothing is there
        storage.delete_files([f"{any_lake}/attempt-1/file"])
        storage.delete(f"{any_lake}/attempt-1")
    assert [file.uri for file in storage.files(any_lake)] == [f"{any_lake}/attempt-10/file"]


def test_uri_of_unknown_scheme_is_refused():
    with pytest.raises(ValueError, match="Unsupported URI '/lake': expected s3://"):
        storage.is_remote("/lake")


DENIED = "403 POST https://storage.googleapis.com/upload/storage/v1/b/lake/o: "
ERRORS = {  # as Google's clients give them in Python, C++ (Arrow) and Java (Spark)
    "There are no credentials": google.auth.exceptions.DefaultCredentialsError(
        "Your default credentials were not found."
    ),
    "The clock of this machine is wrong": google.auth.exceptions.RefreshError(
        "invalid_grant: Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
    ),
    "Google rejects these credentials": google.auth.exceptions.RefreshError(
        "invalid_grant: Token has been expired or revoked."
    ),
    "Google Cloud Storage can't use the KMS key": google.api_core.exceptions.Forbidden(
        f"{DENIED}Permission denied on Cloud KMS key. Please ensure that your Cloud Storage service account may use it."
    ),
    "Google Cloud Storage denies access": RuntimeError(
        'GoogleJsonResponseException: 403 Forbidden\n{\n  "code" : 403,\n  "message" : "a@b.c does not have access"\n}'
    ),
    "Google Cloud Storage (Google) kept throttling": google.api_core.exceptions.RetryError(
        "Timeout of 40.0s exceeded", google.api_core.exceptions.TooManyRequests("GET https://storage.googleapis.com/")
    ),
    "Google Cloud Storage (Google) can't be reached": OSError("google::cloud::Status(UNAVAILABLE: Retry policy"),
    "The bucket of gs://lake/root does not exist": OSError("Status(NOT_FOUND: The specified bucket does not exist."),
    "None": ValueError("403 rows, expected 503 of 429"),
}


@pytest.mark.parametrize("sentence", ERRORS)
def test_error_of_googles_clients_has_a_remedy(monkeypatch, sentence):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    assert str(storage.explain(ERRORS[sentence], "gs://lake/root")).startswith(sentence)


def forbid_call(monkeypatch, module, name, path):
    """Forbid a system call on one path; tests may run as root, which ignores the mode of a file."""
    call = getattr(module, name)

    def refusing(where, *arguments, **options):
        if str(where).endswith(path):
            raise PermissionError(13, "Permission denied", str(where))
        return call(where, *arguments, **options)

    monkeypatch.setattr(module, name, refusing)


@pytest.mark.parametrize("listing", [storage.files, storage.folders, lambda folder: storage.files_of([folder])])
@pytest.mark.parametrize("closed", ["data", "data/a"])
def test_forbidden_listing_is_an_error(lake, monkeypatch, listing, closed):
    storage.write(f"{lake}/data/a/file", b"x")
    storage.write(f"{lake}/data/b/file", b"x")
    forbid_call(monkeypatch, os, "scandir", closed)
    if listing is storage.folders and closed == "data/a":
        assert listing(f"{lake}/data") == ["a", "b"]
        return
    with pytest.raises(PermissionError):
        listing(f"{lake}/data")


def test_forbidden_deletion_is_an_error(lake, monkeypatch):
    storage.write(f"{lake}/data/a/file", b"x")
    forbid_call(monkeypatch, os, "rmdir", "a")
    with pytest.raises(PermissionError):
        storage.delete(f"{lake}/data")


def test_links_are_followed_and_reading_a_broken_one_fails(lake):
    storage.write(f"{lake}/elsewhere/file", b"x")
    storage.write(f"{lake}/data/own", b"x")
    folder = storage.local(f"{lake}/data")
    (folder / "linked").symlink_to(storage.local(f"{lake}/elsewhere"))
    assert [file.uri for file in storage.files(f"{lake}/data")] == [f"{lake}/data/linked/file", f"{lake}/data/own"]
    (folder / "broken").symlink_to("nowhere")
    assert storage.files(f"{lake}/data")[0].uri == f"{lake}/data/broken"  # listed, so that reading it is an error
    with pytest.raises(FileNotFoundError):
        storage.read(f"{lake}/data/broken")
