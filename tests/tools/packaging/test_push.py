"""A pushed image is pulled back and compared; the registry is a real one on loopback."""

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
    """Create images of unique jobs; all of them are removed afterwards."""
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


def test_pushed_image_has_its_name_and_content_in_the_registry(registry, make_image):
    job = make_image()
    remote, digest = push.push(job, FINGERPRINT, registry)
    assert remote == f"{registry}/tandem/{job}:{FINGERPRINT}"
    local = image(job, FINGERPRINT)
    identity = push.run_docker("image", "inspect", "--format", "{{.Id}}", local)
    push.run_docker("image", "rm", remote, local)  # so that all layers come from the registry
    push.run_docker("pull", f"{remote.rpartition(':')[0]}@{digest}")
    push.run_docker("pull", remote)
    assert push.run_docker("image", "inspect", "--format", "{{.Id}}", remote) == identity


def test_push_can_be_repeated(registry, make_image):
    job = make_image()
    assert push.push(job, FINGERPRINT, registry) == push.push(job, FINGERPRINT, registry)


def test_different_image_pulled_back_is_reported(registry, make_image, tmp_path, monkeypatch):
    job, other = make_image(), image(make_image(), FINGERPRINT)
    client = tmp_path / "docker"  # pushes another image to the same name between push and pull
    real = os.environ.get("DOCKER", "docker")
    client.write_text(
        f'#!/bin/sh\n[ "$1" != pull ] || {{ {real} tag {other} "$2"; {real} push "$2"; {real} rmi "$2"; }}\n'
        f'exec {real} "$@"\n'
    )
    client.chmod(0o755)
    monkeypatch.setenv("DOCKER", str(client))
    with pytest.raises(TaskError, match="was pulled back as sha256:"):
        push.push(job, FINGERPRINT, registry)


def test_unreachable_registry_is_reported_with_docker_output(registry, make_image):
    with pytest.raises(TaskError, match=r"docker push 127\.0\.0\.1:9/.* failed: .*refused"):
        push.push(make_image(), FINGERPRINT, "127.0.0.1:9")
