"""Java for Spark: versions and the wrapper."""

import subprocess

from tools.sandbox.java import WRAPPER, version


def program(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_version_is_read_from_javas_error_output(tmp_path):
    java = program(tmp_path / "java", "#!/bin/sh\necho 'openjdk version \"17.0.9\" 2023-10-17' >&2\n")
    assert version(java) == 17
    assert version(program(tmp_path / "old", "#!/bin/sh\necho 'java version \"1.8.0_392\"' >&2\n")) == 1
    assert version(None) == 0


def test_wrapper_drops_the_argument_that_packaged_java_lacks(tmp_path):
    java = program(tmp_path / "real", '#!/bin/sh\nfor argument do echo "$argument"; done\n')
    wrapper = program(tmp_path / "java", WRAPPER.format(java=java))
    command = [wrapper, "-cp", "a b", "--add-modules=jdk.incubator.vector", "org.apache.spark.Main", "*"]
    arguments = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert arguments == ["-cp", "a b", "org.apache.spark.Main", "*"]
