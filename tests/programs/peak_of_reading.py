"""Prints the memory at the peak of reading interactions from files, as a multiple of their matrix; the users."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq

from common import contracts
from common.engines.interactions import read_interactions
from common.handover.heartbeat import status_bytes
from common.handover.inputs import Input
from common.handover.storage import File

files = [File(f"file://{name}", 0) for name in sys.argv[1:]]
rows = sum(pq.ParquetFile(name).metadata.num_rows for name in sys.argv[1:])


def task(files, rows):
    source = Input("interactions", contracts.load("interactions@2"), files, rows)
    return SimpleNamespace(input=lambda role: source, log=print)


read_interactions(task(files[:1], pq.ParquetFile(sys.argv[1]).metadata.num_rows), "interactions", ["weight"])
Path("/proc/self/clear_refs").write_text("5")  # reset the peak, with all libraries loaded and pools filled
before = status_bytes("self", "VmRSS")
found = read_interactions(task(files, rows), "interactions", ["weight"])
size = found.indptr.nbytes + found.indices.nbytes + found.values["weight"].nbytes
print((status_bytes("self", "VmHWM") - before) / size, len(found.users))
