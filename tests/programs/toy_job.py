"""A job that does what its parameter says."""

import tempfile
import time

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_info

from common.handover import run
from common.recommending.blocks import cores
from common.recommending.ease import _lapack


def main(task):
    what, number = task.parameters["what"], task.parameters["number"]
    task.log("here")
    if what == "wait":
        time.sleep(60)
    if what == "invert":
        matrix = np.eye(number, dtype=np.float32, order="F")
        task.log("computing")
        _lapack("spotrf", matrix)
        _lapack("spotri", matrix)
    if what == "multiply":
        matrix = np.ones((number, number), dtype=np.float32)
        task.log("computing")
        matrix @ matrix
    if what == "scratch":
        with tempfile.TemporaryFile() as file:
            file.write(bytes(number))
    task.metrics["threads"] = [cores(), pa.cpu_count(), *(pool["num_threads"] for pool in threadpool_info())]
    task.record_output("table", 0)


if __name__ == "__main__":
    run(main)
