"""Number of a task's requests on S3 other than for its data: seven, for any size of data."""

import uuid
from pathlib import Path

from tools.sandbox.faulty_proxy import proxy

PROGRAMS = Path(__file__).parents[1] / "programs"
WRITE = (PROGRAMS / "write_row.py").read_text()
WRITE_DAYS = (PROGRAMS / "write_days.py").read_text()


def describe(request):
    """Describe a request in a few words: method and subject."""
    if "list-type" in request.query:
        return "list files"
    if "uploads" in request.query:
        return "list uploads"
    return f"{request.method} {request.path.rpartition('/')[2]}"


def test_task_makes_seven_requests_besides_its_data(s3_server, make_job):
    writer = make_job('[outputs.table]\ncontract = "quarantine@2"\n', WRITE, "writer")
    reader = make_job(
        '[inputs.old]\ncontract = "quarantine@2"\n[outputs.table]\ncontract = "quarantine@2"\n', WRITE, "reader"
    )
    with proxy(s3_server["AWS_ENDPOINT_URL"]) as here:
        environment = {**s3_server, "AWS_ENDPOINT_URL": here.url}
        writer.lake = reader.lake = f"s3://tandem-lake/{uuid.uuid4().hex}"
        assert writer.run(task="one", environment=environment).returncode == 0
        here.requests.clear()
        assert reader.run("--from", "old=one", task="two", environment=environment).returncode == 0
    expected = ["GET manifest.json", "list uploads"]  # is this attempt published; uploads of earlier ones
    expected += ["GET manifest.json", "GET manifest.json", "list files"]  # the input, or its first shard; its files
    requests = [describe(request) for request in here.requests]
    assert requests[:5] == expected
    assert requests[-2:] == ["list files", "PUT manifest.json"]  # the written files, and the publication
    data = requests[5:-2]
    assert {words.split()[1] for words in data} == {"part-00000.parquet"}
    assert data.count("PUT part-00000.parquet") == 1


def test_days_of_a_dataset_are_found_without_listing(s3_server, make_job):
    """The files of a day are in its manifest; the only listing checks that they exist."""
    dataset = 'contract = "quarantine@2"\ndataset = "curated/rows"\n'
    window = "".join(
        f'[parameters.{name}]\ntype = "date"\ndefault = ""\nhelp = "when"\n' for name in ("since", "until")
    )
    writer = make_job(f"[outputs.table]\n{dataset}", WRITE_DAYS, "writer")
    read = f'[inputs.old]\n{dataset}dates = ["since", "until"]\n{window}[outputs.table]\ncontract = "quarantine@2"\n'
    reader = make_job(read, WRITE, "reader")
    with proxy(s3_server["AWS_ENDPOINT_URL"]) as here:
        environment = {**s3_server, "AWS_ENDPOINT_URL": here.url}
        writer.lake = reader.lake = f"s3://tandem-lake/{uuid.uuid4().hex}"
        written = writer.run(task="one", environment=environment)
        assert written.returncode == 0, written.stderr
        here.requests.clear()
        done = reader.run("--set", "since=2011-01-02", task="two", environment=environment)
    assert done.returncode == 0, done.stderr
    assert "4" in done.stdout.splitlines()
    requests = [describe(request) for request in here.requests]
    before_data = requests[2 : next(position for position, words in enumerate(requests) if "part-0" in words)]
    assert sorted(before_data) == ["GET days.json", *["GET manifest.json"] * 4, "list files"]
