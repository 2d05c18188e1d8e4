"""Fixtures of tests of build products."""

from pathlib import Path

import pytest
from small_checkout import FILES, write


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    write(root, FILES)
    return root
