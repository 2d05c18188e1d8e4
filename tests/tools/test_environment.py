"""Settings of environments, as tools read them."""

import re
import subprocess
import sys

import pytest

from common.errors import ArgumentError
from tools import environment

CLOUDS = ("dev", "gcp-dev")


def test_listing_has_all_values_and_their_files():
    command = [sys.executable, "-m", "tools.environment", "--environment", "prod"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=environment.ROOT).stdout
    lines = [[part.strip() for part in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    assert ["lake", "s3://tandem-prod", "prod.toml"] in lines
    assert ["delivery.billing", "on-demand", "shared.toml"] in lines
    assert ["retries", "2", "shared.toml"] in lines


def test_unknown_environment_is_reported_with_nearest_name():
    with pytest.raises(ArgumentError, match=r"ENV names the environment 'stagng'.*did you mean 'staging'"):
        environment.load("stagng")


def test_missing_setting_is_reported_with_an_example():
    laptop = environment.load("laptop")
    with pytest.raises(ArgumentError, match=r'laptop.toml has no registry, expected registry = "HOST"; add it there'):
        environment.require(laptop, "registry", "HOST")
    with pytest.raises(ArgumentError, match="laptop has nothing to deploy to"):
        environment.lake(laptop)


def test_environments_of_two_clouds_differ_in_values_only():
    """A key in one file only belongs to a runtime, or is the price of a machine."""
    keys = [
        {path for path, name in environment.load(each).sources.items() if name == f"{each}.toml"} for each in CLOUDS
    ]
    assert {path[:2] for path in keys[0] ^ keys[1]} <= {
        ("delivery", "store"),
        ("prices", "gib_hour"),
        ("prices", "vcpu_hour"),
        ("spark", "dataproc"),
        ("spark", "emr"),
    }


def test_no_job_and_no_pipeline_names_a_cloud():
    files = [*environment.ROOT.glob("jobs/*/*"), *environment.ROOT.glob("airflow_dags/*/dag.py")]
    files += [file for file in environment.ROOT.glob("airflow_dags/*/*.json") if not file.name.startswith("cluster.")]
    named = re.compile(r"s3|gs://|aws|amazon|google|boto|emr|dataproc|dynamodb|bigtable|redis", re.IGNORECASE)
    found = {str(file): named.findall(file.read_text()) for file in files if file.is_file()}
    assert len(found) > 60
    assert {file: words for file, words in found.items() if words} == {}
