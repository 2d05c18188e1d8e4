"""What tools read of environments."""

import subprocess
import sys

import pytest

from common.errors import ArgumentError
from tools import environment


def test_what_is_shown_has_all_values_and_the_files_they_come_from():
    command = [sys.executable, "-m", "tools.environment", "--environment", "prod"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=environment.ROOT).stdout
    lines = [[part.strip() for part in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    assert ["lake", "s3://tandem-prod", "prod.toml"] in lines
    assert ["delivery.billing", "on-demand", "shared.toml"] in lines
    assert ["retries", "2", "shared.toml"] in lines


def test_an_unknown_environment_is_told_with_the_nearest_name():
    with pytest.raises(ArgumentError, match=r"ENV names the environment 'stagng'.*did you mean 'staging'"):
        environment.load("stagng")


def test_what_the_laptop_does_not_name_is_told_with_what_to_write():
    laptop = environment.load("laptop")
    with pytest.raises(ArgumentError, match=r'laptop.toml names no registry, expected registry = "HOST"; add it there'):
        environment.needed(laptop, "registry", "HOST")
    with pytest.raises(ArgumentError, match="laptop has nothing to deploy to"):
        environment.lake(laptop)
