"""Writes the bundles of the Spark jobs of a checkout to a lake; prints their fingerprints as JSON."""

import json
import pathlib
import sys

from common.handover import storage
from tools.packaging.build import bundle_files
from tools.packaging.fingerprint import jobs, product

root, lake = pathlib.Path(sys.argv[1]), sys.argv[2]
products = [each for each in (product(name, root) for name in jobs(root)) if each.job.engine == "spark"]
for each in products:
    for path, content in bundle_files(each).items():
        storage.write(f"{lake}/code/{each.job.name}/{each.fingerprint}/{path}", content)
print(json.dumps({each.job.name: each.fingerprint for each in products}))
