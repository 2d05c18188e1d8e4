"""Remove the parts for gRPC, half of its bytes, from Google's connector in a folder of jars: Spark uses HTTP."""

import re
import sys
import zipfile
from pathlib import Path

UNUSED = re.compile(r"META-INF/native/|com/google/cloud/hadoop/repackaged/gcs/io/grpc/(xds|netty)/")

for jar in Path(sys.argv[1]).glob("gcs-connector-*.jar"):
    smaller = jar.with_suffix(".new")
    with zipfile.ZipFile(jar) as old, zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            if not UNUSED.match(entry.filename):
                new.writestr(entry, old.read(entry))
    smaller.rename(jar)
