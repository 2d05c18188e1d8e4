"""Run a Spark job on the light engine: `python -m common.engines.light.submit MAIN ARGUMENTS…`, like spark-submit."""

import gc
import os
import runpy
import sys
from pathlib import Path

from common.engines.light.activate import activate


def main() -> None:
    """Run the program that the first argument names, with the other ones as its arguments."""
    del sys.argv[0]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))  # as Python does for a program
    activate()
    gc.freeze()  # of the many small objects of SQL none is garbage; looking for it takes a third of their time
    gc.set_threshold(50_000)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        # Without Python's own end, in which DuckDB prints lines about itself after the job's last one.
        os._exit(ended.code if isinstance(ended.code, int) else 1)


if __name__ == "__main__":
    main()
