"""The commands that create tables and roll back a version, as typed."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from common.delivery.dynamodb import tables
from tools import tables as tool

ROOT = Path(__file__).parents[2]


def run_tool(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_create_makes_a_table_per_product_once(dynamodb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = f"t{uuid.uuid4().hex}-"
    monkeypatch.setattr(
        tool, "delivery", lambda environment: {"store": "dynamodb:", "tables": prefix, "billing": "on-demand"}
    )
    made = dict(tool.create("any"))
    assert made[f"{prefix}recommendations"]
    assert set(made) == {f"{prefix}{product}" for product in tool.products()}
    assert not any(dict(tool.create("any")).values())
    names = tables.client().get_paginator("list_tables").paginate().build_full_result()["TableNames"]
    assert set(made) <= set(names)


def test_billing_follows_the_environment(dynamodb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = f"t{uuid.uuid4().hex}-"
    section = {"store": "dynamodb:", "tables": prefix, "billing": "provisioned", "read_units": 5, "write_units": 2}
    monkeypatch.setattr(tool, "delivery", lambda environment: section)
    for name, _ in tool.create("any"):
        found = tables.client().describe_table(TableName=name)["Table"]["ProvisionedThroughput"]
        assert (found["ReadCapacityUnits"], found["WriteCapacityUnits"]) == (5, 2)


def test_commands_report_results_and_errors(moto: str) -> None:
    environment = {
        "DYNAMODB_ENDPOINT": moto,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "eu-west-1",
    }
    environment |= {"AWS_DEFAULT_REGION": "eu-west-1"}
    made = run_tool("tools.tables", "--environment", "laptop", **environment)
    assert made.returncode == 0, made.stderr
    assert "tandem-laptop-recommendations" in made.stdout
    wrong = run_tool("tools.tables", "--environment", "lapdog", **environment)
    assert (wrong.returncode, wrong.stderr) == (
        1,
        "ENV names the environment 'lapdog', which does not exist; did you mean 'laptop'.\n",
    )
    rollback = ["tools.deploy.rollback", "--environment", "laptop", "--product"]
    none = run_tool(*rollback, "recommendations", **environment)
    assert none.returncode == 1
    assert "has no earlier version to roll back to" in none.stderr
    wrong = run_tool(*rollback, "recommendation", **environment)
    assert wrong.stderr == "There is no product 'recommendation'; did you mean 'recommendations'.\n"
