"""Configuration of a team's data, in the folder `sources`: the sources of deliveries, and the tracking plan."""

import zipfile
from pathlib import Path


def folder() -> Path | zipfile.Path:
    """Return the folder `sources`, which lies beside `common` in a checkout, an image and a bundle."""
    code = Path(__file__).parents[2]
    return zipfile.Path(code, "sources/") if code.is_file() else code / "sources"
