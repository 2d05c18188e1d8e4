"""Ingest events on the light engine from another folder of sources: `ingest_light.py SOURCES ARGUMENTS…`."""

import sys
from pathlib import Path

from common.engines.light.activate import activate

activate()

from common import sources  # noqa: E402
from common.handover.runner import exit_code  # noqa: E402
from jobs.ingest_events import main as job  # noqa: E402

folder = Path(sys.argv[1])
sources.folder = lambda: folder
sys.exit(exit_code(job.main, Path(job.__file__).parent, sys.argv[2:]))
