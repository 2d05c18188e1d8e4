"""Google's connector without its parts for gRPC."""

import subprocess
import sys
import zipfile

from tools.packaging.fingerprint import ROOT

KEPT = {
    "META-INF/services/org.apache.hadoop.fs.FileSystem": b"com.google.cloud.hadoop.fs.gcs.GoogleHadoopFileSystem",
    "com/google/cloud/hadoop/repackaged/gcs/io/grpc/Context.class": b"its HTTP client loads it",
}
UNUSED = {
    "META-INF/native/library.so": b"1",
    "com/google/cloud/hadoop/repackaged/gcs/io/grpc/xds/A.class": b"2",
    "com/google/cloud/hadoop/repackaged/gcs/io/grpc/netty/shaded/B.class": b"3",
}


def test_connector_keeps_all_but_its_parts_for_grpc(tmp_path):
    jar, other = tmp_path / "gcs-connector-1-shaded.jar", tmp_path / "other.jar"
    with zipfile.ZipFile(jar, "w") as archive:
        for name, content in (KEPT | UNUSED).items():
            archive.writestr(name, content)
    other.write_bytes(jar.read_bytes())
    subprocess.run([sys.executable, ROOT / "dockerfiles" / "cut_connector.py", tmp_path], check=True)
    with zipfile.ZipFile(jar) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == KEPT
    assert set(zipfile.ZipFile(other).namelist()) == (KEPT | UNUSED).keys()
    assert sorted(tmp_path.iterdir()) == [jar, other]
