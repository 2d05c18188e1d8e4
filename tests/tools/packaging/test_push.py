"""What was pushed to a registry is pulled back and compared; the registry is a real one on loopback."""

import io
import os
import subprocess
import tarfile
import uuid

import pytest

from common.errors import TaskError
from common.protocol import image
from tools.packaging import build, push

FINGERPRINT = "0123"


@pytest.fixture
def make_image():
    """Make an image of a job that nobody else has; all of them are removed afterwards."""
    made = []

    def make() -> str:
        job = f"toy-{uuid.uuid4().hex[:8]}"
        name = image(job, FINGERPRINT)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            entry = tarfile.TarInfo(job)
            archive.addfile(entry)
        client = os.environ.get("DOCKER", "docker")
        subprocess.run([client, "import", "-", name], input=buffer.getvalue(), check=True, capture_output=True)
        made.append(name)
        return job

    yield make
    for name in made:
        for tag in build.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout.split():
            if tag.endswith(name):
                build.docker("image", "rm", tag)


def test_an_image_is_in_the_registry_under_its_own_name_and_comes_back_the_same(registry, make_image):
    job = make_image()
    remote, digest = push.push(job, FINGERPRINT, registry)
    assert remote == f"{registry}/tandem/{job}:{FINGERPRINT}"
    local = image(job, FINGERPRINT)
    identity = push.call("image", "inspect", "--format", "{{.Id}}", local)
    push.call("image", "rm", remote, local)  # so that all of it has to come from the registry
    push.call("pull", f"{remote.rpartition(':')[0]}@{digest}")
    push.call("pull", remote)
    assert push.call("image", "inspect", "--format", "{{.Id}}", remote) == identity


def test_a_push_can_be_repeated(registry, make_image):
    job = make_image()
    assert push.push(job, FINGERPRINT, registry) == push.push(job, FINGERPRINT, registry)


def test_another_image_that_comes_back_is_told(registry, make_image, tmp_path, monkeypatch):
    job, other = make_image(), image(make_image(), FINGERPRINT)
    client = tmp_path / "docker"  # someone else pushes to the same name between our push and our pull
    real = os.environ.get("DOCKER", "docker")
    client.write_text(
        f'#!/bin/sh\n[ "$1" != pull ] || {{ {real} tag {other} "$2"; {real} push "$2"; {real} rmi "$2"; }}\n'
        f'exec {real} "$@"\n'
    )
    client.chmod(0o755)
    monkeypatch.setenv("DOCKER", str(client))
    with pytest.raises(TaskError, match="came back as sha256:"):
        push.push(job, FINGERPRINT, registry)


def test_a_registry_that_is_not_there_is_told_with_what_docker_says(registry, make_image):
    with pytest.raises(TaskError, match=r"docker push 127\.0\.0\.1:9/.* failed and says: .*refused"):
        push.push(make_image(), FINGERPRINT, "127.0.0.1:9")
