"""How many requests a task makes on S3 beside those for its data: a handful, whatever the data's size."""

import uuid

from faulty_proxy import proxy

HEADER = '[job]\ndescription = "A toy."\nengine = "python"\n'
WRITE = """import pyarrow as pa
from common import tables
from common.task import run


def main(task):
    column = pa.array(["x"])
    rows = pa.table({"file": column, "line": pa.array([1]), "reason": column, "content": column})
    tables.write(task, "table", rows)


if __name__ == "__main__":
    run(main)
"""
READ = WRITE.replace("    column = pa", '    print(tables.read(task, "old").num_rows)\n    column = pa')


def told(request):
    """A request in a few words: its method, and what it is about."""
    if "list-type" in request.query:
        return "list files"
    if "uploads" in request.query:
        return "list uploads"
    return f"{request.method} {request.path.rpartition('/')[2]}"


def test_a_task_makes_seven_requests_beside_its_data(s3_server, make_job):
    writer = make_job(f'{HEADER}[outputs.table]\ncontract = "quarantine@1"\n', WRITE, "writer")
    reader = make_job(
        f'{HEADER}[inputs.old]\ncontract = "quarantine@1"\n[outputs.table]\ncontract = "quarantine@1"\n', READ, "reader"
    )
    with proxy(s3_server["AWS_ENDPOINT_URL"]) as here:
        environment = {**s3_server, "AWS_ENDPOINT_URL": here.url}
        writer.lake = reader.lake = f"s3://tandem-lake/{uuid.uuid4().hex}"
        assert writer.run(task="one", environment=environment).returncode == 0
        here.requests.clear()
        assert reader.run("--from", "old=one", task="two", environment=environment).returncode == 0
    beside = ["GET manifest.json", "list files", "list uploads"]  # has this attempt published; what did others leave
    beside += ["GET manifest.json", "list files"]  # the input: what counts, and is it all there
    asked = [told(request) for request in here.requests]
    assert asked[:5] == beside
    assert asked[-2:] == ["list files", "PUT manifest.json"]  # what was written, and that it counts
    data = asked[5:-2]
    assert {words.split()[1] for words in data} == {"part-00000.parquet"}
    assert data.count("PUT part-00000.parquet") == 1
