"""The commands that make tables and go back to the version before, as they are typed."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from common.delivery import tables
from tools import tables as tool

ROOT = Path(__file__).parents[2]


def told(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_every_product_has_a_table_and_a_second_call_makes_none(dynamodb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = f"t{uuid.uuid4().hex}-"
    monkeypatch.setattr(tool, "delivery", lambda environment: {"tables": prefix, "billing": "on-demand"})
    made = dict(tool.create("any"))
    assert made[f"{prefix}recommendations"]
    assert set(made) == {f"{prefix}{product}" for product in tool.products()}
    assert not any(dict(tool.create("any")).values())
    names = tables.client().get_paginator("list_tables").paginate().build_full_result()["TableNames"]
    assert set(made) <= set(names)


def test_billing_is_the_environments(dynamodb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = f"t{uuid.uuid4().hex}-"
    section = {"tables": prefix, "billing": "provisioned", "read_units": 5, "write_units": 2}
    monkeypatch.setattr(tool, "delivery", lambda environment: section)
    for name, _ in tool.create("any"):
        found = tables.client().describe_table(TableName=name)["Table"]["ProvisionedThroughput"]
        assert (found["ReadCapacityUnits"], found["WriteCapacityUnits"]) == (5, 2)


def test_the_commands_say_what_they_did_and_what_is_wrong(moto: str) -> None:
    there = {
        "DYNAMODB_ENDPOINT": moto,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "eu-west-1",
    }
    there |= {"AWS_DEFAULT_REGION": "eu-west-1"}
    made = told("tools.tables", "--environment", "laptop", **there)
    assert made.returncode == 0, made.stderr
    assert "tandem-laptop-recommendations" in made.stdout
    wrong = told("tools.tables", "--environment", "lapdog", **there)
    assert (wrong.returncode, wrong.stderr) == (
        1,
        "ENV names the environment 'lapdog', which does not exist; did you mean 'laptop'\n",
    )
    rollback = ["tools.deploy.rollback", "--environment", "laptop", "--product"]
    none = told(*rollback, "recommendations", **there)
    assert none.returncode == 1
    assert "has shown no version before the one in place" in none.stderr
    wrong = told(*rollback, "recommendation", **there)
    assert wrong.stderr == "There is no product 'recommendation'; did you mean 'recommendations'.\n"
