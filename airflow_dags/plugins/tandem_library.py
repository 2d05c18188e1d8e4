"""Find the library for processes of Airflow that do not know the DAGs folder: the API server and the triggerer."""

import sys
from pathlib import Path

HERE = Path(__file__).parent


def find() -> Path:
    """Make `tandem` importable, and return its folder: the one around the plugins folder, or `library` in it.

    Not the plugins folder itself: Airflow searches it before the DAGs of a run, in every process.
    """
    folder = next(each for each in (HERE.parent, HERE / "library") if (each / "tandem").is_dir())
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return folder
