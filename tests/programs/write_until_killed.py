"""Writes a product, and is killed before its eleventh batch."""

import itertools
import os
import signal

from common.delivery import writer
from jobs.write_product import main as job

batches, put_batch = itertools.count(), writer.put_batch


def put_some(*arguments):
    if next(batches) == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    return put_batch(*arguments)


writer.put_batch = put_some
job.run(job.main)
