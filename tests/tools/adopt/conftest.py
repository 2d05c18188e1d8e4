"""A folder of sources of its own, with a plan of one type, for tests that write into it."""

import pytest

from common import sources

PLAN = """# The team's comment.
[types.purchase]
description = "A line of an order."
weight = "quantity"
target = true
verb = "bought"
"""


@pytest.fixture
def own_sources(tmp_path, monkeypatch):
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "tracking_plan.toml").write_text(PLAN, "utf-8")
    monkeypatch.setattr(sources, "folder", lambda: folder)
    return folder
