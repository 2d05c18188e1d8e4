"""Number of a task's requests on a store other than for its data: at most seven, for any size of data."""

import re
from pathlib import Path

from common.handover import storage
from tests import lakes

PROGRAMS = Path(__file__).parents[1] / "programs"
WRITE = (PROGRAMS / "write_row.py").read_text()
WRITE_DAYS = (PROGRAMS / "write_days.py").read_text()


def describe(request):
    """Describe a request in a few words: purpose and name."""
    if "list-type" in request.query or (request.method == "GET" and request.path.endswith("/o")):
        return "list files"
    if "uploads" in request.query:
        return "list uploads"
    if "uploadType" in request.query:  # Google's; a small object's name is in its body
        named = re.search(rb'"name": *"([^"]+)"', request.body)
        name = named[1].decode() if named else request.query["name"][0]
        verb = "begin" if request.method == "POST" and request.query["uploadType"] == ["resumable"] else "write"
        return f"{verb} {name.rpartition('/')[2]}"
    verb = {"GET": "read", "HEAD": "read", "PUT": "write"}[request.method]
    return f"{verb} {request.path.rpartition('/')[2]}"


def test_task_makes_few_requests_besides_its_data(remote, make_job):
    writer = make_job('[outputs.table]\ncontract = "quarantine@2"\n', WRITE, "writer")
    reader = make_job(
        '[inputs.old]\ncontract = "quarantine@2"\n[outputs.table]\ncontract = "quarantine@2"\n', WRITE, "reader"
    )
    writer.lake = reader.lake = remote.root
    assert writer.run(task="one", environment=remote.environment).returncode == 0
    remote.proxy.requests.clear()
    assert reader.run("--from", "old=one", task="two", environment=remote.environment).returncode == 0
    expected = ["read manifest.json"]  # is this attempt published
    if remote.kind == "s3":
        expected += ["list uploads"]  # of earlier attempts
    expected += ["read manifest.json", "read manifest.json", "list files"]  # the input, or its first shard; its files
    requests = [describe(request) for request in remote.proxy.requests]
    assert requests[: len(expected)] == expected
    assert requests[-2:] == ["list files", "write manifest.json"]  # the written files, and the publication
    data = requests[len(expected) : -2]
    assert {words.split()[1] for words in data} == {"part-00000.parquet"}
    assert data.count("write part-00000.parquet") == 1


def test_days_of_a_dataset_are_found_without_listing(remote, make_job):
    """The files of a day are in its manifest; the only listing checks that they exist."""
    dataset = 'contract = "quarantine@2"\ndataset = "curated/rows"\n'
    window = "".join(
        f'[parameters.{name}]\ntype = "date"\ndefault = ""\nhelp = "when"\n' for name in ("since", "until")
    )
    writer = make_job(f"[outputs.table]\n{dataset}", WRITE_DAYS, "writer")
    read = f'[inputs.old]\n{dataset}dates = ["since", "until"]\n{window}[outputs.table]\ncontract = "quarantine@2"\n'
    reader = make_job(read, WRITE, "reader")
    writer.lake = reader.lake = remote.root
    written = writer.run(task="one", environment=remote.environment)
    assert written.returncode == 0, written.stderr
    remote.proxy.requests.clear()
    done = reader.run("--set", "since=2011-01-02", task="two", environment=remote.environment)
    assert done.returncode == 0, done.stderr
    assert "4" in done.stdout.splitlines()
    requests = [describe(request) for request in remote.proxy.requests]
    data = next(position for position, words in enumerate(requests) if "part-0" in words)
    before_data = requests[2 if remote.kind == "s3" else 1 : data]
    assert sorted(before_data) == ["list files", "read days.json", *["read manifest.json"] * 4]


def test_listing_of_some_folders_begins_at_the_first(remote, monkeypatch):
    for name, value in remote.environment.items():
        monkeypatch.setenv(name, value)
    lakes.forget_clients()
    for name in ("a", "b", "c", "d"):
        storage.write(f"{remote.root}/data/{name}/file", b"x")
    remote.proxy.requests.clear()
    found = storage.files_of([f"{remote.root}/data/{name}" for name in ("c", "b")])
    assert [len(files) for files in found.values()] == [1, 1]
    assert storage.sizes([f"{remote.root}/data/{name}/file" for name in ("b", "c")]).keys() == {
        f"{remote.root}/data/b/file",
        f"{remote.root}/data/c/file",
    }
    begun = [(request.query.get("start-after") or request.query["startOffset"])[0] for request in remote.proxy.requests]
    folder = remote.root.partition("tandem-lake/")[2]
    assert [begin.startswith(f"{folder}/data/b") for begin in begun] == [True, True]
