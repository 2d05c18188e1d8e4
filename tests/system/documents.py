"""Blocks of commands in documents, which tests run."""

import re
from pathlib import Path


def blocks(page: Path, language: str = "sh") -> list[str]:
    """Return the blocks of a page in a language: `sh` is run, `aws` needs an account, other names state the need."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
