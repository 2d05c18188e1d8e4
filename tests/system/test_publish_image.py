"""write_product and publish_product as deployed: their images publish into DynamoDB from a local lake."""

from pathlib import Path

import pyarrow as pa

from common.contracts import load
from common.delivery.dynamodb.store import DynamoDB
from common.engines import arrow
from common.handover.runner import exit_code
from common.protocol import image
from tools.packaging.build import build_image, docker
from tools.packaging.fingerprint import product
from tools.run.run import options

CONTRACT = load("recommendations@2")
WRITER = f'[job]\ndescription = "writes"\nengine = "python"\n[outputs.rows]\ncontract = "{CONTRACT.name}"\n'


def put(folder: Path, lake: str, users: int) -> None:
    """Publish recommendations as the task `select`."""
    rows = [
        {
            "user_id": f"user-{number}",
            "style": "mixed",
            "rank": 1,
            "item_id": "cup",
            "item_name": "CUP",
            "score": 0.5,
            "reason": None,
        }
        for number in range(users)
    ]
    folder.mkdir()
    (folder / "job.toml").write_text(WRITER)
    table = pa.Table.from_pylist(rows, arrow.arrow_schema(CONTRACT, list(CONTRACT.columns)))
    identity = ["--lake", lake, "--dag-id", "dag", "--run-id", "run", "--task-id", "select", "--attempt", "1"]
    assert exit_code(lambda task: arrow.write(task, "rows", table), folder, identity) == 0


def test_image_publishes_with_only_its_lake_and_dynamodb(
    docker_engine: None, tmp_path: Path, product_table: DynamoDB
) -> None:
    lake = f"file://{tmp_path}/lake"
    put(tmp_path / "writer", lake, 60)
    identity = ["--lake", lake, "--dag-id", "dag", "--run-id", "run", "--attempt", "1"]
    prefix = product_table.name.removesuffix("recommendations")
    of_shard = ["--from", "product=select", "--set", f"tables={prefix}", "--set", "store=dynamodb:", "--map-index", "0"]
    for job, given in (("write_product", of_shard), ("publish_product", ["--from", "parts=write_product"])):
        wanted = product(job)
        build_image(wanted)
        ran = docker(
            "run", *options(wanted.job, lake), image(job, wanted.fingerprint), *identity, "--task-id", job, *given
        )
        assert ran.returncode == 0, ran.stderr
    assert [row["item_id"] for row in product_table.shown("user-59")] == ["cup"]
