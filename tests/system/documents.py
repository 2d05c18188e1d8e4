"""The blocks of commands in documents, which tests run."""

import re
from pathlib import Path


def blocks(page: Path, language: str = "sh") -> list[str]:
    """The blocks of a page in a language: `sh` is run, `aws` needs an account, all others say what they need."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
