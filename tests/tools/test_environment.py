"""Settings of environments, as tools read them."""

import subprocess
import sys

import pytest

from common.errors import ArgumentError
from tools import environment


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
